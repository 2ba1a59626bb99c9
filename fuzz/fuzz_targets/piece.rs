#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    highline::fuzzing::piece(data);
});
