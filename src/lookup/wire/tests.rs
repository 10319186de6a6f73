use proptest::prelude::*;
use prost::encoding::{double, fixed32, int64, string};

use super::*;
use crate::lookup::error::CallCode;

fn read(message: &[u8]) -> Result<Vec<(u32, Field<'_>)>, CallError> {
    let mut all = Vec::new();
    fields(message, |number, field| {
        all.push((number, field));
        Ok(())
    })?;
    Ok(all)
}

#[test]
fn fields_of_every_type_are_read_in_order() {
    let mut message = Vec::new();
    int64::encode(1, &-2, &mut message);
    string::encode(536_870_911, &"ü".to_owned(), &mut message);
    double::encode(3, &0.5, &mut message);
    fixed32::encode(4, &7, &mut message);
    string::encode(2, &String::new(), &mut message);
    let all = read(&message).unwrap();
    assert_eq!(all.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 536_870_911, 3, 4, 2]);
    assert_eq!(all[0].1.int().unwrap(), -2);
    assert_eq!(all[1].1.text().unwrap(), "ü");
    assert!((all[2].1.double().unwrap() - 0.5).abs() < f64::EPSILON);
    assert_eq!(all[3].1, Field::Fixed32(7));
    assert!(all[4].1.bytes().unwrap().is_empty());
}

#[test]
fn what_is_not_a_message_is_malformed() {
    for message in [
        &[0x08][..],
        &[0x08, 0x80],
        &[0x0a, 5, 1],
        &[0x09, 1, 2, 3],
        &[0x0d, 1],
        &[0x0b],
        &[0x0f, 1],
        &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        &[0xfa, 0xff, 0xff, 0xff, 0xff, 0x01, 0],
    ] {
        assert_eq!(read(message).map_err(|error| error.code), Err(CallCode::Malformed), "{message:x?}");
    }
    assert_eq!(read(&[]), Ok(vec![]));
}

#[test]
fn a_field_of_another_type_is_malformed() {
    let fields = [Field::Varint(1), Field::Fixed64(1), Field::Bytes(b"1"), Field::Fixed32(1)];
    assert_eq!(fields.map(|field| field.int().is_ok()), [true, false, false, false]);
    assert_eq!(fields.map(|field| field.double().is_ok()), [false, true, false, false]);
    assert_eq!(fields.map(|field| field.bytes().is_ok()), [false, false, true, false]);
    assert!(Field::Bytes(&[0xff]).text().is_err());
}

proptest! {
    /// Whatever the bytes are, reading ends, and passes only bytes of the message.
    #[test]
    fn any_bytes_are_read_or_malformed(message in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut passed = 0;
        let outcome = fields(&message, |_, field| {
            passed += field.bytes().map_or(1, <[u8]>::len);
            Ok(())
        });
        prop_assert!(passed <= message.len());
        prop_assert!(outcome.is_ok() || outcome.is_err_and(|error| error.code == CallCode::Malformed));
    }
}
