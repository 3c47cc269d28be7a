//! Validation with field paths. A manifest is refused whole: every mistake in it
//! is reported at once, each with the path of the field and the way out.

use std::fmt;

/// The reasons that Kubernetes clients know (`metav1.CauseType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The value is missing.
    Required,
    /// The value is there but cannot be used.
    Invalid,
    /// The value is not one of those possible.
    NotSupported,
    /// The same value stands twice where it may stand once.
    Duplicate,
    /// The field may not be set, or not be changed.
    Forbidden,
    /// The value is longer than allowed.
    TooLong,
    /// The value has another JSON type than the schema asks for.
    TypeInvalid,
    /// A list or map has more members than allowed.
    TooMany,
}

impl Cause {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::TooMany => "FieldValueTooMany",
        }
    }
}

/// One mistake in one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// For example `spec.networks[0].address`.
    pub field: String,
    /// What kind of mistake.
    pub cause: Cause,
    /// What is wrong and what to do, without the path.
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Collects mistakes.
#[derive(Debug, Default)]
pub struct Errors(pub Vec<FieldError>);

impl Errors {
    /// Records one mistake.
    pub fn push(&mut self, cause: Cause, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(FieldError {
            field: field.into(),
            cause,
            message: message.into(),
        });
    }

    /// Records an unusable value unless `ok`.
    pub fn check(&mut self, ok: bool, field: &str, message: impl Into<String>) {
        if !ok {
            self.push(Cause::Invalid, field, message);
        }
    }

    /// Records a change of a field that is fixed once the object exists.
    pub fn immutable<T: PartialEq>(
        &mut self,
        field: &str,
        new: &T,
        old: Option<&T>,
        way_out: &str,
    ) {
        if old.is_some_and(|old| old != new) {
            self.push(
                Cause::Forbidden,
                field,
                format!("cannot be changed once set; {way_out}"),
            );
        }
    }

    /// Records a name that is no DNS label (RFC 1123): it becomes part of host names, interfaces or paths.
    pub fn dns_label(&mut self, field: &str, value: &str) {
        let fine = !value.is_empty()
            && value.len() <= 63
            && value
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !value.starts_with('-')
            && !value.ends_with('-');
        if value.len() > 63 {
            self.push(Cause::TooLong, field, "must have at most 63 characters");
        } else {
            self.check(
                fine,
                field,
                format!("{value:?} must be lower-case letters, digits and '-', beginning and ending with a letter or digit"),
            );
        }
    }
}

/// What a kind's spec must satisfy beyond what its schema can say.
pub trait Validate {
    /// Adds every mistake in `self`, named `name`. `old` is the object before an update.
    fn validate(&self, name: &str, old: Option<&Self>, errors: &mut Errors);
}
