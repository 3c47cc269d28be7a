//! Which of the possible Hosts is best. Pure.

/// The smallest is best; the order of the fields is the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score {
    /// How uneven the spread becomes.
    pub skew: u32,
    /// Locality: weights of preferred affinity that is not met and of preferred anti-affinity that is broken.
    pub unmet: u32,
    /// Interference: containers here that mostly use the same resource.
    pub rivals: u32,
    /// How full the fullest resource becomes, in steps of 5 %; with `strategy: pack`, how empty it stays.
    pub load: u32,
    /// What the machine costs per hour, in millionths; the greatest value where it is not known.
    pub price: u64,
    /// The image has to be fetched first.
    pub fetch: bool,
    /// The same as `load`, in thousandths.
    pub fine_load: u32,
    /// Where the Host is in the order of names: makes the choice the same every time.
    pub host: u32,
}

/// Thousandths in a step of [`Score::load`].
pub(super) const STEP: u32 = 50;
