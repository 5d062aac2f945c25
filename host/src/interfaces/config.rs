//! `wasi:config/store`: the guest's own settings. The candidate, and the draft before it that Spin's
//! guests import, are the same under two names.

use wasmtime::{
    Result, StoreContextMut,
    component::{ComponentType, Linker, Lower},
};

use super::Context;

/// The names it is imported by.
const NAMES: [&str; 2] =
    ["wasi:config/store@0.2.0-rc.1", "wasi:config/store@0.2.0-draft-2024-09-27"];

/// `store.error`.
#[expect(dead_code, reason = "settings are in memory, and are there or not")]
#[derive(ComponentType, Lower)]
#[component(variant)]
enum Error {
    #[component(name = "upstream")]
    Upstream(String),
    #[component(name = "io")]
    Io(String),
}

/// Offers it to a linker.
///
/// # Errors
/// When it is there already, which is a bug.
pub(super) fn add_to_linker(linker: &mut Linker<Context>) -> Result<()> {
    for name in NAMES {
        let mut instance = linker.instance(name)?;
        instance.func_wrap(
            "get",
            |mut store: StoreContextMut<'_, Context>, (key,): (String,)| {
                let context = store.data_mut();
                context.effects.look_outside();
                Ok((Ok::<_, Error>(context.settings.variables.get(&key).cloned()),))
            },
        )?;
        instance.func_wrap("get-all", |mut store: StoreContextMut<'_, Context>, (): ()| {
            let context = store.data_mut();
            context.effects.look_outside();
            let all = context.settings.variables.clone();
            Ok((Ok::<Vec<(String, String)>, Error>(all.into_iter().collect()),))
        })?;
    }
    Ok(())
}
