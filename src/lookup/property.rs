//! Properties of artifacts.

/// The value of a property.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Property<'a> {
    Int(i64),
    Double(f64),
    Bool(bool),
    Text(&'a str),
}

/// Parses the property `pushed`. TFX writes an integer and KFP v2 writes all numbers as doubles; programs that copy
/// properties may write a boolean or a text. Returns `None` for anything but a whole number.
pub(crate) fn parse_pushed(property: &Property<'_>) -> Option<i64> {
    match property {
        Property::Int(value) => Some(*value),
        Property::Bool(value) => Some(i64::from(*value)),
        Property::Double(value) => whole_number(*value),
        Property::Text(text) => match text.trim() {
            text if text.eq_ignore_ascii_case("true") => Some(1),
            text if text.eq_ignore_ascii_case("false") => Some(0),
            text => text.parse().ok().or_else(|| whole_number(text.parse().ok()?)),
        },
    }
}

fn whole_number(value: f64) -> Option<i64> {
    // The comparison excludes NaN, the infinities and numbers that an i64 cannot hold exactly.
    (value.fract() == 0.0 && value.abs() < 9e15).then_some(value as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pushed_is_parsed_from_every_kind_of_property() {
        use Property::{Bool, Double, Int, Text};
        for (property, value) in [
            (Int(0), Some(0)),
            (Int(1), Some(1)),
            (Int(7), Some(7)),
            (Double(0.0), Some(0)),
            (Double(-0.0), Some(0)),
            (Double(1.0), Some(1)),
            (Double(0.5), None),
            (Double(f64::NAN), None),
            (Double(f64::INFINITY), None),
            (Double(1e300), None),
            (Bool(false), Some(0)),
            (Bool(true), Some(1)),
            (Text("0"), Some(0)),
            (Text(" 1\n"), Some(1)),
            (Text("0.0"), Some(0)),
            (Text("False"), Some(0)),
            (Text("TRUE"), Some(1)),
            (Text("yes"), None),
            (Text(""), None),
        ] {
            assert_eq!(parse_pushed(&property), value, "{property:?}");
        }
    }
}
