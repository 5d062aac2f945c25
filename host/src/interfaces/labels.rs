//! Stores that guests import under labels of their own, as in `import team-a: wasi:keyvalue/store@…`.
//!
//! A label is the name of a bucket: `""` and `"default"` open the bucket of that name, and any other name the
//! bucket `LABEL/NAME`, so that two labels never open the same one unless the configuration says so. Each
//! component has labels of its own, so what is linked for them is its own as well.

use std::sync::Arc;

use wasmtime::{
    Result, StoreContextMut,
    component::{Component, HasSelf, Linker, Resource},
};

use super::{
    Context, Interface,
    bindings::{
        draft::wasi::keyvalue::store as draft, plugin::wasi::keyvalue::store as draft2,
        spin::fermyon::spin::key_value as spin,
    },
    keyvalue::{Bucket, draft_error, spin_3, spin_error, wasmcloud},
};

/// The interfaces that may be imported under a label.
pub(super) const LABELLED: [&str; 4] = [
    "wasi:keyvalue/store",
    "fermyon:spin/key-value",
    "spin:key-value/key-value",
    "wasmcloud:keyvalue/store",
];

/// The bucket that a name opens under a label.
fn bucket(label: &str, name: &str) -> String {
    match name {
        "" | "default" => label.to_owned(),
        name => format!("{label}/{name}"),
    }
}

/// What the host offers to a component with labels; `None` for one that has none.
///
/// # Errors
/// When one of them has the name of something else, which is a bug.
pub(crate) fn link(
    linker: &Linker<Context>,
    component: &Component,
) -> Result<Option<Linker<Context>>> {
    let engine = linker.engine().clone();
    let ty = component.component_type();
    let labels: Vec<(&str, &str)> = ty
        .imports(&engine)
        .filter_map(|(label, import)| Some((label, import.implements?)))
        .collect();
    if labels.is_empty() {
        return Ok(None);
    }
    let mut linker = linker.clone();
    linker.allow_shadowing(true);
    for (label, name) in labels {
        let (mut instance, label) = (linker.instance(label)?, Arc::<str>::from(label));
        let getter: fn(&mut Context) -> &mut Context = |context| context;
        match Interface::of(name) {
            Interface { base: "wasi:keyvalue/store", version: "0.2.0-draft", .. } => {
                draft::add_to_linker_instance::<_, HasSelf<Context>>(&mut instance, getter)?;
                instance.func_wrap("open", move |store, (name,): (String,)| {
                    Ok((open(store, &label, &name).map_err(draft_error),))
                })?;
            }
            Interface { base: "wasi:keyvalue/store", version: "0.2.0-draft2", .. } => {
                draft2::add_to_linker_instance::<_, HasSelf<Context>>(&mut instance, getter)?;
                instance.func_wrap("open", move |store, (name,): (String,)| {
                    Ok((open(store, &label, &name),))
                })?;
            }
            Interface { base: "fermyon:spin/key-value", .. } => {
                spin::add_to_linker_instance::<_, HasSelf<Context>>(&mut instance, getter)?;
                instance.func_wrap("[static]store.open", move |store, (name,): (String,)| {
                    Ok((open(store, &label, &name).map_err(spin_error),))
                })?;
            }
            Interface { base: "spin:key-value/key-value", .. } => {
                spin_3::add_label(&mut instance, move |name| bucket(&label, name))?;
            }
            // The bucket is a type of another interface here, which has no label.
            Interface { base: "wasmcloud:keyvalue/store", .. } => {
                wasmcloud::add_label(&mut instance, move |name| bucket(&label, name))?;
            }
            // Not offered: linking says so.
            _ => {}
        }
    }
    linker.allow_shadowing(false);
    Ok(Some(linker))
}

fn open(
    mut store: StoreContextMut<'_, Context>,
    label: &str,
    name: &str,
) -> Result<Resource<Bucket>, draft2::Error> {
    store.data_mut().open_bucket(&bucket(label, name)).map(Resource::new_own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_under_a_label_never_meet_those_of_another() {
        assert_eq!(bucket("team-a", ""), "team-a");
        assert_eq!(bucket("team-a", "default"), "team-a");
        assert_eq!(bucket("team-a", "sessions"), "team-a/sessions");
    }
}
