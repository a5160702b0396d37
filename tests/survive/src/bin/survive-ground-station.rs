//! `ground-station` as a binary of this crate, so that its tests find it whatever else was built.

use std::process::ExitCode;

fn main() -> ExitCode {
    survive::programs::ground()
}
