//! The tags by which Skysail knows what is its own, beside those of the order.
//!
//! The Cloud's uid, not its name, says whose a machine is: two installations in one account
//! may both have a Cloud `aws`, and neither may take the other's machines for orphans.

use super::answer::{Instance, Set, Tag};
use std::collections::BTreeMap;

/// The uid of the Cloud.
pub const CLOUD: &str = "skysail.dev/cloud-uid";
/// The name that the machine was ordered under.
pub const NAME: &str = "skysail.dev/machine";
/// What consoles show as the name.
const SHOWN: &str = "Name";

/// The tags of something of the Cloud `uid`, shown as `shown`.
pub fn of_cloud(uid: &str, shown: &str) -> BTreeMap<String, String> {
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    BTreeMap::from([pair(CLOUD, uid), pair(SHOWN, shown)])
}

/// The tags of something of the machine `name`.
pub fn of_machine(
    uid: &str,
    name: &str,
    ordered: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut tags = of_cloud(uid, name);
    tags.insert(NAME.to_owned(), name.to_owned());
    tags.extend(ordered.clone());
    tags
}

/// The tags that `instance` was ordered with.
pub fn ordered(instance: &Instance) -> BTreeMap<String, String> {
    let own = |key: &str| [CLOUD, NAME, SHOWN].contains(&key) || key.starts_with("aws:");
    let tags = instance.tag_set.item.iter().filter(|t| !own(&t.key));
    tags.map(|t| (t.key.clone(), t.value.clone())).collect()
}

/// Whether `tags` are those of something of the Cloud `uid`.
pub fn ours(tags: &Set<Tag>, uid: &str) -> bool {
    super::answer::tag(tags, CLOUD) == Some(uid)
}
