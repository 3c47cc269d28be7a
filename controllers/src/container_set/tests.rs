//! Laws.

use super::plan::{Plan, plan};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use proptest::prelude::*;
use serde_json::json;
use skysail_schemas::{Container, ContainerSet};
use std::sync::Arc;

fn set(replicas: u32) -> ContainerSet {
    serde_json::from_value(json!({
        "apiVersion": "skysail.dev/v1alpha1", "kind": "ContainerSet",
        "metadata": {"name": "web", "namespace": "acme", "uid": "s1"},
        "spec": {"replicas": replicas, "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"image": "debian", "instanceType": "small"}}}
    }))
    .unwrap()
}

fn made(set: &ContainerSet) -> Vec<Arc<Container>> {
    plan(set, &vec![])
        .create
        .into_iter()
        .map(Arc::new)
        .collect()
}

fn ready(container: &Arc<Container>) -> Arc<Container> {
    let mut container = (**container).clone();
    let status = json!({"conditions": [{"type": "Ready", "status": "True", "reason": "Ready", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
    container.status = Some(serde_json::from_value(status).unwrap());
    Arc::new(container)
}

fn names(containers: &[Arc<Container>]) -> Vec<String> {
    containers.iter().map(|c| c.name_any()).collect()
}

#[test]
fn scaling_down_removes_from_the_highest_number() {
    let there = made(&set(12));
    assert_eq!(
        names(&plan(&set(9), &there).remove),
        ["web-11", "web-10", "web-9"]
    );
}

#[test]
fn a_foreign_container_is_never_touched() {
    let mut foreign = (*made(&set(1))[0]).clone();
    foreign.metadata.owner_references = None;
    assert_eq!(
        plan(&set(1), &vec![Arc::new(foreign.clone())]),
        Plan::default()
    );
    assert_eq!(plan(&set(0), &vec![Arc::new(foreign)]), Plan::default());
}

#[test]
fn deletion_removes_every_own_container() {
    let there = made(&set(3));
    let mut gone = set(3);
    gone.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    assert_eq!(plan(&gone, &there).remove.len(), 3);
}

#[test]
fn another_image_replaces_one_at_a_time_and_only_while_the_others_are_ready() {
    let there = made(&set(3));
    let mut changed = set(3);
    changed.spec.template.spec.image = "other".into();
    assert_eq!(
        plan(&changed, &there),
        Plan::default(),
        "none is ready, so none may go"
    );
    let there: Vec<_> = there.iter().map(ready).collect();
    assert_eq!(names(&plan(&changed, &there).remove), ["web-2"]);
}

#[test]
fn a_change_that_a_running_container_takes_is_made_in_place() {
    let there = made(&set(2));
    let mut changed = set(2);
    changed.spec.template.spec.running = false;
    let planned = plan(&changed, &there);
    assert_eq!(
        (
            planned.update.len(),
            planned.remove.len(),
            planned.create.len()
        ),
        (2, 0, 0)
    );
}

proptest! {
    #[test]
    fn applying_a_plan_leaves_nothing_to_plan(before in 0u32..20, after in 0u32..20) {
        let mut there = made(&set(before));
        let planned = plan(&set(after), &there);
        there.retain(|c| !planned.remove.contains(c));
        there.extend(planned.create.into_iter().map(Arc::new));
        prop_assert_eq!(there.len(), after as usize);
        prop_assert_eq!(plan(&set(after), &there), Plan::default());
    }
}
