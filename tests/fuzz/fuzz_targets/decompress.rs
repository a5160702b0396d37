//! See [`fuzz_targets::decompressed`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    fuzz_targets::decompressed(input);
});
