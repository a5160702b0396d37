//! Notes when the program was built: no clock that shows an earlier time can be right.
//!
//! `SOURCE_DATE_EPOCH` (s since 1970), where it is set, says so instead, so that a build can be repeated byte for byte.

use std::time::{SystemTime, UNIX_EPOCH};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let told = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.trim().parse().ok());
    println!("cargo:rustc-env=PERIGEE_BUILT={}", told.unwrap_or(now));
}
