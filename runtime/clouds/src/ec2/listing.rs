//! The machines of a cloud as last listed, and what a listing may not show yet.
//!
//! One listing serves everybody who asks at about the same time: a hundred Hosts that look at their
//! machines are one call a second, not a hundred. EC2's listings lag behind its launches: a
//! machine that was just launched and is not listed is not absent, it is *not listed yet*.

use super::{
    answer::{Instance, Reservations, tag},
    client::{Client, Form},
    tags,
};
use crate::{Error, Result};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// How old a listing may be for one who only looks.
const FRESH: Duration = Duration::from_secs(1);
/// How long a machine may be missing from listings before it counts as absent.
const GRACE: Duration = Duration::from_secs(60);
/// More pages than any account has machines: a cloud whose last page never comes is not followed for ever.
const PAGES: usize = 1000;

/// What is known.
#[derive(Debug, Default)]
pub struct Listing {
    /// When the call for `instances` was begun; `None` where it no longer holds.
    begun: Option<Instant>,
    instances: Vec<Instance>,
    /// Machines that this process launched, until a listing shows them.
    launched: HashMap<String, (Instance, Instant)>,
    /// Machines that were asked for and are not listed, since when.
    missing: HashMap<String, Instant>,
}

impl Listing {
    /// Takes what a call, begun at `begun`, has shown.
    fn take(&mut self, mut seen: Vec<Instance>, begun: Instant, now: Instant) {
        self.launched.retain(|id, (_, at)| {
            now.saturating_duration_since(*at) < GRACE && !seen.iter().any(|i| i.instance_id == *id)
        });
        self.missing
            .retain(|id, _| !seen.iter().any(|i| i.instance_id == *id));
        seen.extend(self.launched.values().map(|(i, _)| i.clone()));
        seen.sort_by(|a, b| {
            (&a.launch_time, &a.instance_id).cmp(&(&b.launch_time, &b.instance_id))
        });
        self.instances = seen;
        self.begun = Some(begun);
    }

    /// Notes a launch that listings may not show yet.
    pub fn launched(&mut self, instance: Instance) {
        self.begun = None;
        self.launched
            .insert(instance.instance_id.clone(), (instance, Instant::now()));
    }

    /// What was listed holds no longer.
    pub fn changed(&mut self) {
        self.begun = None;
    }

    /// Whether the machine `id`, which is not listed, is certainly absent.
    fn is_absent(&mut self, id: &str, now: Instant) -> bool {
        if !is_id(id) {
            return true;
        }
        let since = *self.missing.entry(id.to_owned()).or_insert(now);
        now.saturating_duration_since(since) >= GRACE
    }
}

/// Whether `id` looks like a machine's.
pub fn is_id(id: &str) -> bool {
    id.strip_prefix("i-").is_some_and(|digits| {
        (8..=32).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

/// Whether the machine is one: one that ends or has ended takes up no room and costs nothing.
pub fn lives(instance: &Instance) -> bool {
    !matches!(
        instance.instance_state.name.as_str(),
        "shutting-down" | "terminated"
    )
}

impl Client {
    /// The machines of the Cloud `uid`, those that have ended too, no older than `since`.
    pub async fn instances(&self, uid: &str, since: Instant) -> Result<Vec<Instance>> {
        let mut listing = self.memory.listing.lock().await;
        if listing.begun.is_some_and(|begun| begun >= since) {
            return Ok(listing.instances.clone());
        }
        let begun = Instant::now();
        let filter = format!("tag:{}", tags::CLOUD);
        let form = Form::new("DescribeInstances").filter(1, &filter, uid);
        let mut seen = self.all_pages(&form).await?;
        // A filter that the cloud does not know must not make others' machines ours.
        seen.retain(|i| tag(&i.tag_set, tags::CLOUD) == Some(uid));
        seen.retain(|i| tag(&i.tag_set, tags::NAME).is_some() && is_id(&i.instance_id));
        listing.take(seen, begun, Instant::now());
        Ok(listing.instances.clone())
    }

    /// The same for one who only looks.
    pub async fn glance(&self, uid: &str) -> Result<Vec<Instance>> {
        let since = Instant::now().checked_sub(FRESH);
        self.instances(uid, since.unwrap_or_else(Instant::now))
            .await
    }

    /// Says that the machine `id`, which is not listed, is absent, or that one cannot tell yet.
    pub async fn absence(&self, id: &str) -> Error {
        let certain = self
            .memory
            .listing
            .lock()
            .await
            .is_absent(id, Instant::now());
        let cloud = &self.cloud;
        match certain {
            true => Error::NotFound(format!("Cloud {cloud}: there is no machine {id}")),
            false => Error::Transient(format!(
                "Cloud {cloud}: machine {id} is not listed; it may have been launched just now, or be gone: within {} s it is certain",
                GRACE.as_secs()
            )),
        }
    }

    /// Every machine that `form` describes.
    async fn all_pages(&self, form: &Form) -> Result<Vec<Instance>> {
        let mut found = vec![];
        let mut next: Option<String> = None;
        for _ in 0..PAGES {
            let form = form
                .clone()
                .with("MaxResults", "500")
                .maybe("NextToken", next.take());
            let answer: Reservations = self.call(&form).await?;
            let reservations = answer.reservation_set.item.into_iter();
            found.extend(reservations.flat_map(|r| r.instances_set.item));
            next = answer.next_token.filter(|t| !t.is_empty());
            if next.is_none() {
                return Ok(found);
            }
        }
        Err(Error::Transient(format!(
            "Cloud {}: DescribeInstances does not come to an end",
            self.cloud
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(id: &str) -> Instance {
        Instance {
            instance_id: id.into(),
            ..Instance::default()
        }
    }

    #[test]
    fn a_machine_launched_just_now_is_listed_although_the_cloud_does_not_show_it_yet() {
        let mut listing = Listing::default();
        listing.launched(instance("i-00000001"));
        let now = Instant::now();
        listing.take(vec![], now, now);
        assert_eq!(listing.instances.len(), 1);
        listing.take(vec![instance("i-00000001")], now, now);
        assert_eq!(listing.instances.len(), 1, "it is not there twice");
        listing.take(vec![], now, now);
        assert_eq!(listing.instances.len(), 0, "once listed, the cloud knows");
        listing.launched(instance("i-00000002"));
        listing.take(vec![], now, now + GRACE * 2);
        assert_eq!(listing.instances.len(), 0, "not for ever");
    }

    #[test]
    fn what_is_not_listed_is_absent_only_after_a_while() {
        let mut listing = Listing::default();
        let now = Instant::now();
        assert!(!listing.is_absent("i-00000001", now));
        assert!(!listing.is_absent("i-00000001", now + GRACE / 2));
        assert!(listing.is_absent("i-00000001", now + GRACE));
        listing.take(vec![instance("i-00000001")], now, now);
        assert!(!listing.is_absent("i-00000001", now + GRACE * 3));
        assert!(listing.is_absent("nobody", now), "no id of this cloud");
    }
}
