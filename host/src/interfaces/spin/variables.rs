//! `fermyon:spin/variables` and `spin:variables`: the guest's settings, as `wasi:config/store` has them.

use wasmtime::{
    Result, StoreContextMut,
    component::{ComponentType, Linker, Lower},
};

use super::Context;

/// `variables.error`.
#[expect(dead_code, reason = "a setting comes from no provider")]
#[derive(ComponentType, Lower)]
#[component(variant)]
enum Error {
    #[component(name = "invalid-name")]
    InvalidName(String),
    #[component(name = "undefined")]
    Undefined(String),
    #[component(name = "provider")]
    Provider(String),
    #[component(name = "other")]
    Other(String),
}

fn get(context: &mut Context, name: String) -> Result<String, Error> {
    context.effects.look_outside();
    match context.settings.variables.get(&name) {
        Some(value) => Ok(value.clone()),
        None if is_name(&name) => Err(Error::Undefined(format!(
            "'{name}' is none of the guest's settings; set it with --setting or under settings in tally.toml"
        ))),
        None => Err(Error::InvalidName(format!(
            "'{name}': a name is lower-case letters, digits and underscores, a letter first"
        ))),
    }
}

/// Whether Spin would take it for a variable's name.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    name.starts_with(|first: char| first.is_ascii_lowercase()) && name.bytes().all(plain)
}

/// Offers it to a linker.
///
/// # Errors
/// When it is there already, which is a bug.
pub(super) fn add_to_linker(linker: &mut Linker<Context>) -> Result<()> {
    linker.instance("fermyon:spin/variables@2.0.0")?.func_wrap(
        "get",
        |mut store: StoreContextMut<'_, Context>, (name,): (String,)| {
            Ok((get(store.data_mut(), name),))
        },
    )
}

/// Offers version 3 to a linker, which is the same but for `async`.
///
/// # Errors
/// As for all that is `async`.
pub(super) fn add_0_3_to_linker(linker: &mut Linker<Context>) -> Result<()> {
    linker.instance("spin:variables/variables@3.0.0")?.func_wrap_concurrent(
        "get",
        |store, (name,): (String,)| {
            let value = store.with(|mut store| get(store.get(), name));
            Box::pin(async { Ok((value,)) })
        },
    )
}

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn names_are_those_of_spin() {
        for (name, is) in [
            ("a", true),
            ("api_key_2", true),
            ("", false),
            ("2a", false),
            ("A", false),
            ("a-b", false),
        ] {
            assert_eq!(is_name(name), is, "{name}");
        }
    }
}
