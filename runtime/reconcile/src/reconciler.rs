//! The one shape: observe, plan, apply, status.

use crate::{Error, Next, Note};
use jiff::Timestamp;
use kube::core::object::HasStatus;
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt::Debug, future::Future, time::Duration};

/// A kind that can be read and watched.
pub trait Resource:
    kube::Resource<DynamicType = ()>
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
    + Send
    + Sync
    + 'static
{
}
impl<
    K: kube::Resource<DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned
        + Serialize
        + Send
        + Sync
        + 'static,
> Resource for K
{
}

/// A kind with a status that can be reconciled.
pub trait Object:
    Resource + HasStatus<Status: Default + PartialEq + Clone + Serialize + Send + Sync>
{
}
impl<K: Resource + HasStatus<Status: Default + PartialEq + Clone + Serialize + Send + Sync>> Object
    for K
{
}

/// What a turn ends with.
#[derive(Debug)]
pub struct Outcome<S> {
    /// The whole status as it should now be; written only if it differs from what it was.
    pub status: S,
    /// What to wait for.
    pub next: Next,
    /// Notable steps, shown as events of the object.
    pub notes: Vec<Note>,
}

impl<S> Outcome<S> {
    /// An outcome without notes.
    pub fn new(status: S, next: Next) -> Self {
        Self {
            status,
            next,
            notes: vec![],
        }
    }
    /// Adds a note.
    pub fn note(mut self, note: Note) -> Self {
        self.notes.push(note);
        self
    }
}

/// One kind's controller. Deletion is no other path: `plan` sees the deletion mark
/// and plans removal, `status` says [`Next::Finished`] when nothing is left.
pub trait Reconciler: Send + Sync + 'static {
    /// What is reconciled.
    type Kind: Object;
    /// What was seen of the world. Absent, unknown and known are three answers:
    /// an error while reading is an `Err` (or an explicit unknown), never "absent".
    type Observed: Send + Sync;
    /// What is to be done; the default is "nothing", and is not applied.
    type Plan: Debug + Default + PartialEq + Send + Sync;
    /// What came of each step.
    type Report: Debug + Default + Send + Sync;

    /// Folder, log field, field manager, reporter of events.
    const NAME: &'static str;
    /// Keeps a deleted object until a turn says [`Next::Finished`].
    const FINALIZER: Option<&'static str> = None;
    /// Whether the loop adds [`Self::FINALIZER`] before the first effect; `false` where another controller does.
    const ADDS_FINALIZER: bool = true;

    /// The longest time between two turns of an object.
    fn resync(&self) -> Duration {
        Duration::from_secs(600)
    }

    /// Reads the world.
    fn observe(
        &self,
        object: &Self::Kind,
    ) -> impl Future<Output = Result<Self::Observed, Error>> + Send;

    /// Decides. Pure: no clock, no reading, no chance.
    fn plan(object: &Self::Kind, observed: &Self::Observed, now: Timestamp) -> Self::Plan;

    /// Does what the plan says: makes no choices, does not stop at the first error, reports each step.
    fn apply(
        &self,
        object: &Self::Kind,
        plan: &Self::Plan,
    ) -> impl Future<Output = Self::Report> + Send;

    /// Says what is now known. Pure. Starts from the object's status and changes the fields that this controller owns.
    fn status(
        object: &Self::Kind,
        observed: &Self::Observed,
        plan: &Self::Plan,
        report: &Self::Report,
        now: Timestamp,
    ) -> Outcome<<Self::Kind as HasStatus>::Status>;

    /// What the status becomes when the world could not be observed; `None` leaves it as it is.
    fn unobserved(
        _object: &Self::Kind,
        _error: &Error,
        _now: Timestamp,
    ) -> Option<<Self::Kind as HasStatus>::Status> {
        None
    }
}
