//! Answers of ML Metadata: no answer panics, and the conversion agrees with the generated types.

#![no_main]

use libfuzzer_sys::fuzz_target;
use model_update_eventsource::mlmd::fuzzing::convert;

fuzz_target!(|answer: &[u8]| {
    // As a whole answer, and as its only row. A row of less than 2 MiB has a length of up to three bytes.
    convert(answer);
    let length = u32::try_from(answer.len()).expect("a small input");
    let mut row = vec![0x0a, length as u8 | 0x80, (length >> 7) as u8 | 0x80, (length >> 14) as u8 & 0x7f];
    row.extend_from_slice(answer);
    convert(&row);
});
