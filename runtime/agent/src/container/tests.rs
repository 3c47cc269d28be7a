//! The laws of a container's plan.

use super::plan::*;
use super::record::{Desired, Init, Record};
use crate::image::ImageState;
use jiff::{SignedDuration, Timestamp};
use skysail_schemas::container::{Attachment, ContainerSpec, RestartPolicy, RunImage};
use skysail_schemas::port::PortSpec;

const T0: Timestamp = Timestamp::UNIX_EPOCH;
const INIT: Init = Init { pid: 77, ticks: 1 };

fn port() -> PortSpec {
    PortSpec {
        namespace: "acme".into(),
        labels: Default::default(),
        container: "web".into(),
        network: "net".into(),
        interface: 0,
        vni: 7,
        address: "10.0.0.2".parse().unwrap(),
        cidr: "10.0.0.0/24".parse().unwrap(),
        gateway: "10.0.0.1".parse().unwrap(),
        mac: "02:07:0a:00:00:02".into(),
        dns_domain: "blue.sky".into(),
        egress: false,
        location: None,
    }
}

fn desired() -> Desired {
    let networks = vec![Attachment {
        name: "net".into(),
        address: None,
    }];
    let image = RunImage {
        name: "debian".into(),
        digest: "sha256:0".into(),
        init: vec!["/sbin/init".into()],
    };
    let spec = ContainerSpec {
        running: true,
        networks,
        ..ContainerSpec::default()
    };
    Desired {
        uid: "u1".into(),
        epoch: 1,
        spec,
        image: Some(image),
        ports: vec![port()],
        ..Desired::default()
    }
}

fn nothing() -> Seen {
    Seen {
        obstacles: None,
        record: Record::default(),
        process: None,
        image: ImageState::Present,
        namespaces: false,
        root: false,
        connected: false,
        trouble: None,
        limits_bandwidth: true,
        anything: false,
        held: false,
    }
}

/// What the steps lead to when all of them work.
fn after(desired: &Desired, seen: &Seen, plan: &Plan, now: Timestamp) -> Seen {
    let mut s = seen.clone();
    for step in &plan.steps {
        s.anything = true;
        match step {
            Step::Remember => {
                s.record.id = Some(super::record::Id {
                    namespace: "blue".into(),
                    name: "web".into(),
                });
                (s.record.desired, s.record.left_at) = (desired.clone(), None);
            }
            Step::NoteEnd { failures } => {
                (
                    s.record.launched,
                    s.record.init,
                    s.record.ended_at,
                    s.record.failures,
                ) = (false, None, Some(now), *failures);
            }
            Step::Adopt(init) => (s.record.init, s.record.launched) = (Some(*init), true),
            Step::FetchImage => s.image = ImageState::Present,
            Step::TakeIds => s.record.ids = Some(super::idmap::IdRange { base: 1 << 20 }),
            Step::Namespaces => s.namespaces = true,
            Step::Root => s.root = true,
            Step::Ports => {
                (s.record.attached, s.connected) = (desired.ports.clone(), true);
                s.record.bandwidth = desired.allocation.bandwidth;
            }
            Step::Start { again } => {
                (
                    s.process,
                    s.record.init,
                    s.record.launched,
                    s.record.started_at,
                ) = (Some(INIT), Some(INIT), true, Some(now));
                s.record.sized = Some((INIT, desired.allocation.clone()));
                s.record.ended_at = None;
                s.record.restarts += u32::from(*again);
            }
            Step::Stop | Step::Kill => {
                (
                    s.process,
                    s.record.init,
                    s.record.launched,
                    s.record.failures,
                    s.record.ended_at,
                ) = (None, None, false, 0, None);
            }
            Step::DetachPorts => {
                s.record.attached.clear();
                s.connected = false;
            }
            Step::Resize => s.record.sized = Some((INIT, desired.allocation.clone())),
            Step::Unmount => s.root = false,
            Step::DropNamespaces => s.namespaces = false,
            Step::Forget => (s.record, s.anything) = (Record::default(), false),
        }
    }
    s
}

/// Plans and applies until nothing is left to do.
fn converge(desired: &Desired, mut seen: Seen, now: Timestamp) -> Seen {
    for _ in 0..5 {
        let plan = plan(desired, &seen, now);
        if plan.steps.is_empty() {
            return seen;
        }
        seen = after(desired, &seen, &plan, now);
    }
    panic!("does not converge: {:?}", plan(desired, &seen, now));
}

#[test]
fn a_new_container_is_prepared_and_started_in_one_turn() {
    let steps = plan(&desired(), &nothing(), T0).steps;
    assert_eq!(
        steps,
        [
            Step::Remember,
            Step::TakeIds,
            Step::Namespaces,
            Step::Root,
            Step::Ports,
            Step::Start { again: false }
        ]
    );
}

#[test]
fn a_converged_container_plans_nothing_whatever_it_should_be() {
    for change in [
        |_: &mut Desired| {},
        |d: &mut Desired| d.spec.running = false,
        |d: &mut Desired| d.spec.privileged = true,
        |d: &mut Desired| d.removed = true,
    ] {
        let mut desired = desired();
        change(&mut desired);
        let seen = converge(&desired, nothing(), T0);
        assert_eq!(plan(&desired, &seen, T0), Plan::default());
        assert_eq!(seen.process.is_some(), desired.runs());
    }
}

#[test]
fn deletion_leaves_nothing_from_any_state() {
    let mut gone = desired();
    gone.removed = true;
    for seen in [
        nothing(),
        converge(&desired(), nothing(), T0),
        Seen {
            anything: true,
            held: false,
            root: true,
            ..nothing()
        },
    ] {
        let left = converge(&gone, seen, T0);
        assert_eq!(
            left,
            Seen {
                image: left.image.clone(),
                ..nothing()
            }
        );
    }
}

#[test]
fn a_removal_is_on_record_before_it_begins() {
    let mut gone = desired();
    gone.removed = true;
    let steps = plan(&gone, &converge(&desired(), nothing(), T0), T0).steps;
    assert_eq!(steps[..2], [Step::Remember, Step::Kill]);
}

#[test]
fn an_init_that_was_killed_is_started_again_at_once_and_counted() {
    let mut seen = converge(&desired(), nothing(), T0);
    seen.process = None;
    let later = T0 + SignedDuration::from_secs(60);
    let steps = plan(&desired(), &seen, later).steps;
    assert_eq!(
        steps,
        [Step::NoteEnd { failures: 0 }, Step::Start { again: true }]
    );
    assert_eq!(converge(&desired(), seen, later).record.restarts, 1);
}

#[test]
fn an_init_that_keeps_ending_is_started_with_a_growing_pause() {
    let (mut seen, mut now, mut pauses) = (converge(&desired(), nothing(), T0), T0, vec![]);
    for _ in 0..14 {
        seen.process = None;
        let first = plan(&desired(), &seen, now);
        let until = first
            .blocked
            .clone()
            .and_then(|b| b.until)
            .expect("a pause");
        pauses.push(until.duration_since(now));
        seen = after(&desired(), &seen, &first, now);
        now = until;
        seen = converge(&desired(), seen, now);
    }
    assert!(pauses.is_sorted());
    assert_eq!(
        (pauses[0], pauses[13]),
        (
            SignedDuration::from_millis(200),
            SignedDuration::from_mins(5)
        )
    );
}

#[test]
fn with_the_policy_never_an_ended_init_stays_ended_and_its_addresses_fall_silent() {
    let mut desired = desired();
    desired.spec.restart_policy = RestartPolicy::Never;
    let mut seen = converge(&desired, nothing(), T0);
    seen.process = None;
    let seen = converge(&desired, seen, T0);
    assert!(seen.process.is_none() && !seen.namespaces && seen.record.attached.is_empty());
    assert_eq!(plan(&desired, &seen, T0).blocked.unwrap().reason, "Exited");
}

#[test]
fn a_container_that_was_stopped_and_is_wanted_again_starts_without_counting_a_restart() {
    let mut stopped = desired();
    stopped.spec.running = false;
    let seen = converge(&stopped, converge(&desired(), nothing(), T0), T0);
    let seen = converge(&desired(), seen, T0);
    assert_eq!((seen.process, seen.record.restarts), (Some(INIT), 0));
}

#[test]
fn an_agent_that_starts_anew_only_makes_sure_of_the_ports_of_a_running_container() {
    let seen = converge(&desired(), nothing(), T0);
    assert_eq!(plan(&desired(), &seen, T0), Plan::default());
    let anew = Seen {
        connected: false,
        ..seen.clone()
    };
    assert_eq!(plan(&desired(), &anew, T0).steps, [Step::Ports]);
    let lost = Seen {
        record: Record {
            init: None,
            ..seen.record.clone()
        },
        ..seen
    };
    assert_eq!(plan(&desired(), &lost, T0).steps, [Step::Adopt(INIT)]);
}

#[test]
fn after_a_reboot_everything_is_made_again_on_the_layer_that_is_there() {
    let seen = converge(&desired(), nothing(), T0);
    let rebooted = Seen {
        process: None,
        namespaces: false,
        root: false,
        ..seen
    };
    let steps = plan(&desired(), &rebooted, T0 + SignedDuration::from_secs(60)).steps;
    assert_eq!(
        steps,
        [
            Step::NoteEnd { failures: 0 },
            Step::Namespaces,
            Step::Root,
            Step::Ports,
            Step::Start { again: true }
        ]
    );
}

#[test]
fn an_older_epoch_is_not_acted_on() {
    let mut newer = desired();
    newer.epoch = 5;
    let seen = converge(&newer, nothing(), T0);
    let mut stale = desired();
    stale.spec.running = false;
    let plan = plan(&stale, &seen, T0);
    assert_eq!(
        (plan.steps.len(), plan.blocked.unwrap().reason.as_str()),
        (0, "StaleEpoch")
    );
}

#[test]
fn what_an_earlier_container_of_the_same_name_left_goes_first() {
    let seen = converge(&desired(), nothing(), T0);
    let second = Desired {
        uid: "u2".into(),
        ..desired()
    };
    let steps = plan(&second, &seen, T0).steps;
    assert_eq!(
        steps,
        [
            Step::Kill,
            Step::DetachPorts,
            Step::Unmount,
            Step::DropNamespaces,
            Step::Forget
        ]
    );
    assert_eq!(converge(&second, seen, T0).record.desired.uid, "u2");
}

#[test]
fn nothing_starts_before_image_and_ports_are_here_and_it_says_so() {
    let mut no_port = desired();
    no_port.ports.clear();
    let mut no_image = desired();
    no_image.image = None;
    let absent = Seen {
        image: ImageState::Absent,
        ..nothing()
    };
    let ground = [Step::TakeIds, Step::Namespaces, Step::Root];
    let waits = plan(&no_port, &nothing(), T0);
    assert_eq!(waits.blocked.unwrap().reason, NETWORK_PENDING);
    assert_eq!(waits.steps[1..], ground, "what needs no address is made");
    for (desired, seen, reason) in [
        (no_image, nothing(), "ImagePending"),
        (desired(), absent, "FetchingImage"),
    ] {
        let plan = plan(&desired, &seen, T0);
        assert_eq!(plan.blocked.unwrap().reason, reason);
        assert!(
            plan.steps
                .iter()
                .all(|s| matches!(s, Step::Remember | Step::FetchImage)),
            "{:?}",
            plan.steps
        );
    }
}

#[test]
fn a_failed_fetch_is_told_and_tried_again_after_a_pause() {
    let failed = ImageState::Failed {
        again: T0 + SignedDuration::from_secs(30),
        reason: "DiskFull".into(),
        message: "no room".into(),
    };
    let seen = Seen {
        image: failed,
        ..nothing()
    };
    let first = plan(&desired(), &seen, T0);
    let blocked = first.blocked.unwrap();
    assert_eq!(
        (first.steps.as_slice(), blocked.reason.as_str()),
        ([Step::Remember].as_slice(), "DiskFull")
    );
    assert!(
        blocked.until <= Some(T0 + SignedDuration::from_secs(2)),
        "room is noticed soon"
    );
    let later = plan(&desired(), &seen, T0 + SignedDuration::from_secs(31));
    assert!(later.steps.contains(&Step::FetchImage));
}

#[test]
fn a_container_that_left_stops_at_once_and_its_layer_goes_later() {
    let mut seen = converge(&desired(), nothing(), T0);
    let now = leave(&seen, T0);
    assert_eq!(
        now.steps,
        [
            Step::Kill,
            Step::DetachPorts,
            Step::Unmount,
            Step::DropNamespaces
        ]
    );
    seen = after(&desired(), &seen, &now, T0);
    seen.record.left_at = Some(T0);
    assert_eq!(
        leave(&seen, T0 + SignedDuration::from_mins(59)),
        Plan::default()
    );
    assert_eq!(leave(&seen, T0 + KEPT).steps, [Step::Forget]);
}

#[test]
fn a_bandwidth_limit_is_told_as_kept_or_as_not_supported() {
    let mut wanted = desired();
    wanted.allocation.bandwidth = Some(skysail_schemas::quantity::Bandwidth(20_000_000));
    let fact = |seen: &Seen| {
        let told = super::status::status(
            &skysail_schemas::Container::new("web", wanted.spec.clone()),
            &wanted,
            seen,
            None,
            &Plan::default(),
            &super::apply::Report::default(),
            T0,
        );
        let all = told.status.conditions.into_iter();
        all.filter(|c| c.type_ == "BandwidthLimited")
            .map(|c| (c.status, c.reason))
            .next()
    };
    let mut seen = nothing();
    assert_eq!(fact(&seen), None, "nothing is attached yet");
    seen.record.attached = wanted.ports.clone();
    seen.record.bandwidth = wanted.allocation.bandwidth;
    assert_eq!(fact(&seen), Some(("True".into(), "Enforced".into())));
    seen.limits_bandwidth = false;
    assert_eq!(fact(&seen), Some(("False".into(), "NotSupported".into())));
}

#[test]
fn what_runs_gets_a_new_size_and_one_started_behind_our_back_gets_its_size_back() {
    let mut larger = desired();
    let mut seen = converge(&desired(), nothing(), T0);
    larger.allocation.memory = skysail_schemas::quantity::Bytes(1 << 30);
    assert_eq!(
        plan(&larger, &seen, T0).steps,
        [Step::Remember, Step::Resize]
    );
    seen = converge(&larger, seen, T0);
    let again = Init { pid: 78, ticks: 2 };
    seen.process = Some(again);
    assert_eq!(
        plan(&larger, &seen, T0).steps,
        [Step::Adopt(again), Step::Resize]
    );
    // What could not be applied stays to be done.
    seen.process = Some(INIT);
    seen.record.sized = None;
    assert_eq!(plan(&larger, &seen, T0).steps, [Step::Resize]);
}
