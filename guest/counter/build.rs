//! Where the stack of the counter ends, and its data begins.

fn main() {
    // On the page where data begins: with 1.5 KiB more than 64, what an ordinary request writes of stack,
    // data and arena is on one page of the host's. Chosen for data of some 1.3 KiB.
    println!("cargo::rustc-link-arg-cdylib=-zstack-size=67072");
    println!("cargo::rerun-if-changed=build.rs");
}
