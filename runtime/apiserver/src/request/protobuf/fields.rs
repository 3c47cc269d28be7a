//! Field tables of the messages that clients send.

use Shape::{Boolean, Bytes, Integer, Json, List, Map, Message, MicroTime, Text, Time};

/// A field of a message.
pub(super) struct Field {
    pub(super) number: u64,
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    /// A pointer in Go: also zero says something.
    pub(super) pointer: bool,
}

/// What a field holds.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    Text,
    /// Base64 in JSON.
    Bytes,
    Integer,
    Boolean,
    /// RFC 3339, seconds.
    Time,
    /// RFC 3339, microseconds.
    MicroTime,
    /// A message that wraps JSON text.
    Json,
    Message(&'static [Field]),
    List(&'static Shape),
    /// With text as keys.
    Map(&'static Shape),
}

const fn field(number: u64, name: &'static str, shape: Shape) -> Field {
    Field {
        number,
        name,
        shape,
        pointer: false,
    }
}

const fn pointer(number: u64, name: &'static str, shape: Shape) -> Field {
    Field {
        number,
        name,
        shape,
        pointer: true,
    }
}

/// The fields of a kind.
pub(super) fn of(api_version: &str, kind: &str) -> Option<&'static [Field]> {
    let fields = match (api_version, kind) {
        ("v1", "Namespace") => NAMESPACE,
        ("v1", "ConfigMap") => CONFIG_MAP,
        ("v1", "Secret") => SECRET,
        ("v1", "Event") => EVENT,
        ("events.k8s.io/v1", "Event") => NEW_EVENT,
        ("coordination.k8s.io/v1", "Lease") => LEASE,
        (
            "authorization.k8s.io/v1",
            "SelfSubjectAccessReview" | "SubjectAccessReview" | "LocalSubjectAccessReview",
        ) => ACCESS_REVIEW,
        ("authorization.k8s.io/v1", "SelfSubjectRulesReview") => RULES_REVIEW,
        ("authentication.k8s.io/v1", "SelfSubjectReview") => SELF_REVIEW,
        ("authentication.k8s.io/v1", "TokenReview") => TOKEN_REVIEW,
        // Every group version registers it.
        (_, "DeleteOptions") => DELETE_OPTIONS,
        _ => return None,
    };
    Some(fields)
}

pub(super) const TYPE_META: &[Field] = &[field(1, "apiVersion", Text), field(2, "kind", Text)];

const METADATA: Field = field(1, "metadata", Message(OBJECT_META));

const OBJECT_META: &[Field] = &[
    field(1, "name", Text),
    field(2, "generateName", Text),
    field(3, "namespace", Text),
    field(4, "selfLink", Text),
    field(5, "uid", Text),
    field(6, "resourceVersion", Text),
    field(7, "generation", Integer),
    field(8, "creationTimestamp", Time),
    field(9, "deletionTimestamp", Time),
    pointer(10, "deletionGracePeriodSeconds", Integer),
    field(11, "labels", Map(&Text)),
    field(12, "annotations", Map(&Text)),
    field(13, "ownerReferences", List(&Message(OWNER))),
    field(14, "finalizers", List(&Text)),
    field(17, "managedFields", List(&Message(MANAGED_FIELDS))),
];

const OWNER: &[Field] = &[
    field(1, "kind", Text),
    field(3, "name", Text),
    field(4, "uid", Text),
    field(5, "apiVersion", Text),
    pointer(6, "controller", Boolean),
    pointer(7, "blockOwnerDeletion", Boolean),
];

const MANAGED_FIELDS: &[Field] = &[
    field(1, "manager", Text),
    field(2, "operation", Text),
    field(3, "apiVersion", Text),
    field(4, "time", Time),
    field(6, "fieldsType", Text),
    field(7, "fieldsV1", Json),
    field(8, "subresource", Text),
];

const NAMESPACE: &[Field] = &[
    METADATA,
    field(2, "spec", Message(&[field(1, "finalizers", List(&Text))])),
    field(
        3,
        "status",
        Message(&[
            field(1, "phase", Text),
            field(2, "conditions", List(&Message(CONDITION))),
        ]),
    ),
];

const CONDITION: &[Field] = &[
    field(1, "type", Text),
    field(2, "status", Text),
    field(4, "lastTransitionTime", Time),
    field(5, "reason", Text),
    field(6, "message", Text),
];

const CONFIG_MAP: &[Field] = &[
    METADATA,
    field(2, "data", Map(&Text)),
    field(3, "binaryData", Map(&Bytes)),
    pointer(4, "immutable", Boolean),
];

const SECRET: &[Field] = &[
    METADATA,
    field(2, "data", Map(&Bytes)),
    field(3, "type", Text),
    field(4, "stringData", Map(&Text)),
    pointer(5, "immutable", Boolean),
];

const REFERENCE: &[Field] = &[
    field(1, "kind", Text),
    field(2, "namespace", Text),
    field(3, "name", Text),
    field(4, "uid", Text),
    field(5, "apiVersion", Text),
    field(6, "resourceVersion", Text),
    field(7, "fieldPath", Text),
];

const SOURCE: &[Field] = &[field(1, "component", Text), field(2, "host", Text)];
const SERIES: &[Field] = &[
    field(1, "count", Integer),
    field(2, "lastObservedTime", MicroTime),
];

const EVENT: &[Field] = &[
    METADATA,
    field(2, "involvedObject", Message(REFERENCE)),
    field(3, "reason", Text),
    field(4, "message", Text),
    field(5, "source", Message(SOURCE)),
    field(6, "firstTimestamp", Time),
    field(7, "lastTimestamp", Time),
    field(8, "count", Integer),
    field(9, "type", Text),
    field(10, "eventTime", MicroTime),
    field(11, "series", Message(SERIES)),
    field(12, "action", Text),
    field(13, "related", Message(REFERENCE)),
    field(14, "reportingComponent", Text),
    field(15, "reportingInstance", Text),
];

const NEW_EVENT: &[Field] = &[
    METADATA,
    field(2, "eventTime", MicroTime),
    field(3, "series", Message(SERIES)),
    field(4, "reportingController", Text),
    field(5, "reportingInstance", Text),
    field(6, "action", Text),
    field(7, "reason", Text),
    field(8, "regarding", Message(REFERENCE)),
    field(9, "related", Message(REFERENCE)),
    field(10, "note", Text),
    field(11, "type", Text),
    field(12, "deprecatedSource", Message(SOURCE)),
    field(13, "deprecatedFirstTimestamp", Time),
    field(14, "deprecatedLastTimestamp", Time),
    field(15, "deprecatedCount", Integer),
];

const LEASE: &[Field] = &[METADATA, field(2, "spec", Message(LEASE_SPEC))];

const LEASE_SPEC: &[Field] = &[
    pointer(1, "holderIdentity", Text),
    pointer(2, "leaseDurationSeconds", Integer),
    pointer(3, "acquireTime", MicroTime),
    pointer(4, "renewTime", MicroTime),
    pointer(5, "leaseTransitions", Integer),
    pointer(6, "strategy", Text),
    pointer(7, "preferredHolder", Text),
];

const ACCESS_REVIEW: &[Field] = &[METADATA, field(2, "spec", Message(ACCESS_REVIEW_SPEC))];

const ACCESS_REVIEW_SPEC: &[Field] = &[
    pointer(1, "resourceAttributes", Message(RESOURCE_ATTRIBUTES)),
    pointer(
        2,
        "nonResourceAttributes",
        Message(&[field(1, "path", Text), field(2, "verb", Text)]),
    ),
    field(3, "user", Text),
    field(4, "groups", List(&Text)),
    field(5, "extra", Map(&Message(&[field(1, "items", List(&Text))]))),
    field(6, "uid", Text),
];

const RESOURCE_ATTRIBUTES: &[Field] = &[
    field(1, "namespace", Text),
    field(2, "verb", Text),
    field(3, "group", Text),
    field(4, "version", Text),
    field(5, "resource", Text),
    field(6, "subresource", Text),
    field(7, "name", Text),
];

const RULES_REVIEW: &[Field] = &[
    METADATA,
    field(2, "spec", Message(&[field(1, "namespace", Text)])),
];

const SELF_REVIEW: &[Field] = &[METADATA];

const TOKEN_REVIEW: &[Field] = &[
    METADATA,
    field(
        2,
        "spec",
        Message(&[field(1, "token", Text), field(2, "audiences", List(&Text))]),
    ),
];

const DELETE_OPTIONS: &[Field] = &[
    pointer(1, "gracePeriodSeconds", Integer),
    pointer(
        2,
        "preconditions",
        Message(&[pointer(1, "uid", Text), pointer(2, "resourceVersion", Text)]),
    ),
    pointer(3, "orphanDependents", Boolean),
    pointer(4, "propagationPolicy", Text),
    field(5, "dryRun", List(&Text)),
];
