//! See [`fuzz_targets::elements`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    fuzz_targets::elements(input);
});
