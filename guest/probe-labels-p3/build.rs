//! Leaves the module as it is: the linker's part that makes components of modules knows no labels in the
//! toolchain that this is built with. Tests make the component.

fn main() {
    println!("cargo::rustc-link-arg-cdylib=--skip-wit-component");
}
