//! The ids of Workflows, runs and traces.

use std::fmt;

use uuid::Uuid;

/// The UID of an object in Kubernetes. Unlike a name it is never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid(Uuid);

impl Uid {
    /// Parses a UID as Kubernetes writes it. Returns `None` if it is not a UUID.
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }

    /// The sixteen bytes of the UID.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl From<u128> for Uid {
    fn from(value: u128) -> Self {
        Self(Uuid::from_u128(value))
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Kubeflow's id of a run: nearly always a UUID, which is stored without an allocation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RunId {
    /// A UUID in lower case with dashes.
    Uuid(Uuid),
    /// Any other text.
    Other(Box<str>),
}

impl RunId {
    /// The label's value; `Display` returns the same text.
    pub fn new(text: &str) -> Self {
        match Uuid::try_parse(text) {
            Ok(uuid) if uuid.hyphenated().to_string() == text => Self::Uuid(uuid),
            _ => Self::Other(text.into()),
        }
    }

    /// Returns whether the label has no value.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Other(text) if text.is_empty())
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(uuid) => uuid.hyphenated().fmt(f),
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// An OpenTelemetry trace id: sixteen bytes, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

impl TraceId {
    /// Parses 32 hexadecimal digits. Returns `None` for other texts, and for the invalid id of zeros.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        Self::from_bytes(u128::from_str_radix(text, 16).ok()?.to_be_bytes())
    }

    /// The id with these bytes. Returns `None` for the invalid id of zeros.
    pub fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    /// The sixteen bytes of the id.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d";

    #[test]
    fn a_uid_has_the_format_of_kubernetes() {
        assert_eq!(Uid::parse(UID).unwrap().to_string(), UID);
        for text in ["", "run-x", &UID[1..], &format!("{UID}0"), "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4g"] {
            assert_eq!(Uid::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_run_id_keeps_its_text() {
        for text in [UID, &UID.to_uppercase(), &UID.replace('-', ""), "", "a run", "{0a1b2c3d}"] {
            assert_eq!(RunId::new(text).to_string(), text);
        }
        assert!(matches!(RunId::new(UID), RunId::Uuid(_)));
    }

    #[test]
    fn a_trace_id_is_32_hexadecimal_digits_and_not_all_zero() {
        let valid = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(TraceId::parse(valid).unwrap().to_string(), valid);
        assert_eq!(TraceId::parse(&valid.to_uppercase()).unwrap().to_string(), valid);
        for text in
            ["", &valid[1..], &format!("{valid}0"), &"0".repeat(32), &"g".repeat(32), "+bf92f3577b34da6a3ce929d0e0e473"]
        {
            assert_eq!(TraceId::parse(text), None, "{text:?}");
        }
        assert_eq!(TraceId::from_bytes([0; 16]), None);
    }
}
