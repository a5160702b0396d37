//! Links the program with packed relative relocations, half a megabyte less to store and to keep in memory, and a release with equal
//! functions joined, a tenth of that, and with what an idle agent runs together (`order/order.py`), which keeps three megabytes less in
//! memory. The first needs glibc 2.36 where it runs, and static builds have no such relocations; the others are for lld, which Rust
//! brings for this target, and are left out where another linker is named.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=PERIGEE_UNORDERED");
    let target = std::env::var("TARGET").unwrap_or_default();
    if target.ends_with("-linux-gnu") {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    let named = |name: &str| std::env::var(name).unwrap_or_default();
    let usual = named("RUSTC_LINKER").is_empty() && !named("CARGO_ENCODED_RUSTFLAGS").contains("fuse-ld");
    if target == "x86_64-unknown-linux-gnu" && named("PROFILE") == "release" && usual {
        println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
        if named("PERIGEE_UNORDERED").is_empty() {
            let order = format!("{}/order/order.ld", named("CARGO_MANIFEST_DIR"));
            println!("cargo:rerun-if-changed={order}");
            println!("cargo:rustc-link-arg-bins=-Wl,-T,{order}");
        }
    }
}
