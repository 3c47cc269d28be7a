//! The API as kube-rs sees it, in the same process.

mod harness;

use futures::{StreamExt, TryStreamExt};
use harness::Running;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Secret};
use kube::api::{
    Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
    PropagationPolicy, WatchEvent, WatchParams,
};
use kube::runtime::events::{EventType, Recorder, Reporter};
use kube::runtime::finalizer::{Event as Finalizer, finalizer};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use skysail_apiserver::Identity;
use skysail_schemas::{Container, InstanceType};
use std::sync::Arc;
use std::time::Duration;

fn container(name: &str) -> Container {
    from(
        json!({"apiVersion": "skysail.dev/v1alpha1", "kind": "Container", "metadata": {"name": name},
        "spec": {"image": "debian", "instanceType": "small"}}),
    )
}

fn config_map(name: &str) -> ConfigMap {
    from(json!({"metadata": {"name": name, "labels": {"app": name}}, "data": {"a": "b"}}))
}

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("fits its type")
}

fn code(error: kube::Error) -> (u16, String) {
    match error {
        kube::Error::Api(status) => (status.code, status.reason.clone()),
        other => panic!("no Status: {other}"),
    }
}

/// Waits until `check` holds; panics after 10 seconds.
async fn until<F, Fut>(what: &str, check: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = bool>,
{
    let waiting = async {
        while !check().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .unwrap_or_else(|_| panic!("never happened: {what}"));
}

#[tokio::test]
async fn an_object_is_made_read_changed_and_deleted() {
    let running = Running::start().await;
    let api: Api<Container> = Api::default_namespaced(running.admin());
    let made = api
        .create(&PostParams::default(), &container("c1"))
        .await
        .expect("made");
    assert_eq!(made.metadata.generation, Some(1));
    assert_eq!(made.metadata.namespace.as_deref(), Some("default"));
    assert!(made.spec.running, "defaults are filled in");
    let again = api
        .create(&PostParams::default(), &container("c1"))
        .await
        .expect_err("exists");
    assert_eq!(code(again), (409, "AlreadyExists".into()));

    let mut changed = made.clone();
    changed.spec.running = false;
    let changed = api
        .replace("c1", &PostParams::default(), &changed)
        .await
        .expect("replaced");
    assert_eq!(changed.metadata.generation, Some(2));
    let stale = api
        .replace("c1", &PostParams::default(), &made)
        .await
        .expect_err("stale");
    assert_eq!(code(stale), (409, "Conflict".into()));

    let same = api
        .replace("c1", &PostParams::default(), &changed)
        .await
        .expect("nothing to do");
    assert_eq!(
        same.resource_version(),
        changed.resource_version(),
        "a write that changes nothing is none"
    );
    assert_eq!(
        api.list(&ListParams::default())
            .await
            .expect("list")
            .items
            .len(),
        1
    );
    api.delete("c1", &DeleteParams::default())
        .await
        .expect("deleted");
    assert_eq!(
        code(api.get("c1").await.expect_err("gone")),
        (404, "NotFound".into())
    );
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let running = Running::start().await;
    let api: Api<Container> = Api::default_namespaced(running.admin());
    api.create(&PostParams::default(), &container("c1"))
        .await
        .expect("made");
    let patch = json!({"status": {"host": "h1"}, "spec": {"running": false}});
    let patched = api
        .patch_status("c1", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .expect("patched");
    assert!(
        patched.spec.running,
        "the status endpoint leaves the spec alone"
    );
    assert_eq!(patched.metadata.generation, Some(1));
    assert_eq!(patched.status.and_then(|s| s.host).as_deref(), Some("h1"));
    let patch = json!({"status": {"host": "h2"}, "spec": {"running": false}});
    let patched = api
        .patch("c1", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .expect("patched");
    assert_eq!(patched.status.and_then(|s| s.host).as_deref(), Some("h1"));
    assert_eq!(patched.metadata.generation, Some(2));
    let on_host = ListParams::default().fields("status.host=h1");
    assert_eq!(api.list(&on_host).await.expect("list").items.len(), 1);
    let bad = api
        .list(&ListParams::default().fields("spec.bad=x"))
        .await
        .expect_err("no such label");
    assert_eq!(code(bad).0, 400);
}

#[tokio::test]
async fn mistakes_are_refused_with_the_path_of_the_field() {
    let running = Running::start().await;
    let api: Api<InstanceType> = Api::default_namespaced(running.admin());
    let api: Api<DynamicObject> = Api::default_namespaced_with(
        api.into_client(),
        &kube::api::ApiResource::erase::<InstanceType>(&()),
    );
    let bad = from(
        json!({"metadata": {"name": "Bad_Name"}, "spec": {"cpu": "-1", "memory": "1Gi", "disk": "1Gi"}}),
    );
    let refused = api
        .create(&PostParams::default(), &bad)
        .await
        .expect_err("refused");
    let kube::Error::Api(status) = refused else {
        panic!("{refused}")
    };
    assert_eq!(
        (status.code, status.reason.as_str()),
        (422, "Invalid"),
        "{status:?}"
    );
    let fields: Vec<String> = status
        .details
        .iter()
        .flat_map(|d| d.causes.iter().map(|c| c.field.clone()))
        .collect();
    assert!(
        fields.contains(&"metadata.name".into()) && fields.iter().any(|f| f.starts_with("spec")),
        "{fields:?}"
    );
}

#[tokio::test]
async fn a_watch_sees_objects_enter_and_leave_its_selection() {
    let running = Running::start().await;
    let api: Api<ConfigMap> = Api::default_namespaced(running.admin());
    let list = api.list(&ListParams::default()).await.expect("list");
    let from = list
        .metadata
        .resource_version
        .expect("a list has a revision");
    let stream = api
        .watch(&WatchParams::default().labels("app=a"), &from)
        .await
        .expect("watch");
    let mut stream = stream.boxed();
    api.create(&PostParams::default(), &config_map("a"))
        .await
        .expect("made");
    api.create(&PostParams::default(), &config_map("b"))
        .await
        .expect("made");
    let patch = json!({"metadata": {"labels": {"app": "other"}}});
    api.patch("a", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .expect("patched");
    let first = stream.try_next().await.expect("an event").expect("no end");
    assert!(
        matches!(&first, WatchEvent::Added(o) if o.name_any() == "a"),
        "{first:?}"
    );
    let second = stream.try_next().await.expect("an event").expect("no end");
    assert!(
        matches!(&second, WatchEvent::Deleted(o) if o.name_any() == "a"),
        "{second:?}"
    );
}

#[tokio::test]
async fn kube_watchers_work_with_lists_and_with_streaming_lists() {
    let running = Running::start().await;
    let api: Api<ConfigMap> = Api::default_namespaced(running.admin());
    api.create(&PostParams::default(), &config_map("a"))
        .await
        .expect("made");
    for config in [
        watcher::Config::default(),
        watcher::Config::default().streaming_lists(),
    ] {
        let mut objects = watcher(api.clone(), config).applied_objects().boxed();
        let seen = tokio::time::timeout(Duration::from_secs(5), objects.try_next())
            .await
            .expect("in time");
        assert_eq!(
            seen.expect("fine").map(|o| o.name_any()).as_deref(),
            Some("a")
        );
    }
}

#[tokio::test]
async fn finalizers_hold_an_object_until_they_are_done() {
    let running = Running::start().await;
    let api: Api<ConfigMap> = Api::default_namespaced(running.admin());
    api.create(&PostParams::default(), &config_map("a"))
        .await
        .expect("made");
    let step = |event| async move {
        match event {
            Finalizer::Apply(_) | Finalizer::Cleanup(_) => {
                Ok::<_, std::convert::Infallible>(kube::runtime::controller::Action::await_change())
            }
        }
    };
    let object = Arc::new(api.get("a").await.expect("there"));
    finalizer(&api, "skysail.dev/test", object, step)
        .await
        .expect("finalizer added");
    api.delete("a", &DeleteParams::default())
        .await
        .expect("marked");
    let marked = api.get("a").await.expect("still there");
    assert!(marked.metadata.deletion_timestamp.is_some());
    finalizer(&api, "skysail.dev/test", Arc::new(marked), step)
        .await
        .expect("finalizer removed");
    assert_eq!(code(api.get("a").await.expect_err("gone")).0, 404);
}

#[tokio::test]
async fn a_deleted_namespace_is_swept() {
    let running = Running::start().await;
    running.namespace("acme").await;
    let api: Api<Container> = Api::namespaced(running.admin(), "acme");
    api.create(&PostParams::default(), &container("c1"))
        .await
        .expect("made");
    let namespaces: Api<Namespace> = Api::all(running.admin());
    namespaces
        .delete("acme", &DeleteParams::default())
        .await
        .expect("deletion begun");
    until("the namespace is gone", || async {
        namespaces.get_opt("acme").await.expect("asked").is_none()
    })
    .await;
    assert_eq!(code(api.get("c1").await.expect_err("gone")).0, 404);
    let missing = api
        .create(&PostParams::default(), &container("c2"))
        .await
        .expect_err("no namespace");
    assert_eq!(code(missing).0, 404);
    let kept = namespaces
        .delete("default", &DeleteParams::default())
        .await
        .expect_err("kept");
    assert_eq!(code(kept).0, 403);
}

#[tokio::test]
async fn dependents_go_with_their_owner_as_the_policy_says() {
    let running = Running::start().await;
    let api: Api<ConfigMap> = Api::default_namespaced(running.admin());
    for (policy, stays) in [
        (PropagationPolicy::Background, false),
        (PropagationPolicy::Foreground, false),
        (PropagationPolicy::Orphan, true),
    ] {
        let owner = api
            .create(&PostParams::default(), &config_map("owner"))
            .await
            .expect("made");
        let mut dependent = config_map("dependent");
        dependent.metadata.owner_references =
            Some(owner.controller_owner_ref(&()).into_iter().collect());
        api.create(&PostParams::default(), &dependent)
            .await
            .expect("made");
        let params = DeleteParams {
            propagation_policy: Some(policy.clone()),
            ..DeleteParams::default()
        };
        api.delete("owner", &params).await.expect("deleted");
        until("the owner is gone", || async {
            api.get_opt("owner").await.expect("asked").is_none()
        })
        .await;
        if stays {
            let left = api.get("dependent").await.expect("left behind");
            assert_eq!(left.metadata.owner_references.unwrap_or_default(), vec![]);
        } else {
            until("the dependent is gone", || async {
                api.get_opt("dependent").await.expect("asked").is_none()
            })
            .await;
        }
    }
}

#[tokio::test]
async fn pages_show_one_revision_also_while_others_write() {
    let running = Running::start().await;
    let api: Api<ConfigMap> = Api::default_namespaced(running.admin());
    for i in 0..5 {
        api.create(&PostParams::default(), &config_map(&format!("c{i}")))
            .await
            .expect("made");
    }
    let first = api
        .list(&ListParams::default().limit(2))
        .await
        .expect("a page");
    assert_eq!(first.metadata.remaining_item_count, Some(3));
    api.delete("c3", &DeleteParams::default())
        .await
        .expect("deleted");
    api.create(&PostParams::default(), &config_map("c2a"))
        .await
        .expect("made");
    let token = first.metadata.continue_.expect("more");
    let rest = api
        .list(&ListParams::default().limit(10).continue_token(&token))
        .await
        .expect("a page");
    let names: Vec<String> = rest.items.iter().map(ResourceExt::name_any).collect();
    assert_eq!(names, ["c2", "c3", "c4"]);
    assert_eq!(
        rest.metadata.resource_version,
        first.metadata.resource_version
    );
}

#[tokio::test]
async fn events_of_the_new_group_are_read_in_the_old_one() {
    let running = Running::start().await;
    let api: Api<Container> = Api::default_namespaced(running.admin());
    let object = api
        .create(&PostParams::default(), &container("c1"))
        .await
        .expect("made");
    let recorder = Recorder::new(
        running.admin(),
        Reporter {
            controller: "test".into(),
            instance: None,
        },
    );
    let event = kube::runtime::events::Event {
        type_: EventType::Normal,
        reason: "Tested".into(),
        note: Some("all is well".into()),
        action: "Testing".into(),
        secondary: None,
    };
    recorder
        .publish(&event, &object.object_ref(&()))
        .await
        .expect("published");
    recorder
        .publish(&event, &object.object_ref(&()))
        .await
        .expect("published again, as a series");
    let events: Api<Event> = Api::default_namespaced(running.admin());
    let found = events
        .list(&ListParams::default().fields("involvedObject.name=c1"))
        .await
        .expect("list");
    assert_eq!(found.items.len(), 1);
    assert_eq!(found.items[0].message.as_deref(), Some("all is well"));
}

#[tokio::test]
async fn secrets_fold_plain_text_and_dry_runs_store_nothing() {
    let running = Running::start().await;
    let api: Api<Secret> = Api::default_namespaced(running.admin());
    let secret: Secret =
        from(json!({"metadata": {"generateName": "s-"}, "stringData": {"key": "value"}}));
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    api.create(&dry, &secret).await.expect("checked");
    assert_eq!(
        api.list(&ListParams::default())
            .await
            .expect("list")
            .items
            .len(),
        0
    );
    let made = api
        .create(&PostParams::default(), &secret)
        .await
        .expect("made");
    assert!(made.name_any().starts_with("s-") && made.name_any().len() == 7);
    assert_eq!(made.data.expect("data")["key"].0, b"value");
    assert_eq!(made.type_.as_deref(), Some("Opaque"));
}

#[tokio::test]
async fn a_host_reaches_only_what_concerns_it() {
    let running = Running::start().await;
    let admin: Api<Container> = Api::default_namespaced(running.admin());
    for (name, host) in [("mine", "h1"), ("theirs", "h2")] {
        admin
            .create(&PostParams::default(), &container(name))
            .await
            .expect("made");
        let patch = json!({"status": {"host": host}});
        admin
            .patch_status(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .expect("bound");
    }
    let agent = running.server.in_process(Identity::host("h1"));
    let all: Api<Container> = Api::all(agent.clone());
    let mine = all
        .list(&ListParams::default().fields("status.host=h1"))
        .await
        .expect("my containers");
    assert_eq!(mine.items.len(), 1);
    for selector in [
        ListParams::default(),
        ListParams::default().fields("status.host=h2"),
    ] {
        assert_eq!(
            code(all.list(&selector).await.expect_err("not mine")).0,
            403
        );
    }
    let api: Api<Container> = Api::default_namespaced(agent.clone());
    assert_eq!(code(api.get("theirs").await.expect_err("not mine")).0, 403);
    let patch = json!({"status": {"pid": 7}});
    api.patch_status("mine", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .expect("my status");
    let patch = json!({"spec": {"running": false}});
    let refused = api
        .patch("mine", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .expect_err("not the spec");
    assert_eq!(code(refused).0, 403);
    let secrets: Api<Secret> = Api::default_namespaced(agent);
    assert_eq!(
        code(
            secrets
                .list(&ListParams::default())
                .await
                .expect_err("no secrets")
        )
        .0,
        403
    );
}

#[tokio::test]
async fn nobody_without_a_certificate_is_let_in() {
    let running = Running::start().await;
    let client = kube::Client::new(running.server.router(), "default");
    let api: Api<Secret> = Api::default_namespaced(client);
    assert_eq!(
        code(api.list(&ListParams::default()).await.expect_err("nobody")).0,
        401
    );
}

#[tokio::test]
async fn everything_is_there_again_after_a_restart() {
    let mut running = Running::start().await;
    let api: Api<ConfigMap> = Api::default_namespaced(running.admin());
    let made = api
        .create(&PostParams::default(), &config_map("a"))
        .await
        .expect("made");
    running.server.stop();
    let config = skysail_apiserver::Config::new(running.dir.path(), "https://127.0.0.1:0");
    running.server = skysail_apiserver::ApiServer::new(running.store.clone(), config)
        .await
        .expect("starts again");
    let api: Api<ConfigMap> = Api::default_namespaced(running.admin());
    assert_eq!(api.get("a").await.expect("there"), made);
}

#[tokio::test]
async fn applied_fields_are_owned_given_up_and_fought_over() {
    let running = Running::start().await;
    let api: Api<ConfigMap> = Api::default_namespaced(running.admin());
    let manifest = |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
    let one = PatchParams::apply("one");
    api.patch(
        "a",
        &one,
        &Patch::Apply(manifest(json!({"x": "1", "y": "1"}))),
    )
    .await
    .expect("made");
    let two = PatchParams::apply("two");
    let fought = api
        .patch("a", &two, &Patch::Apply(manifest(json!({"x": "2"}))))
        .await
        .expect_err("conflict");
    let kube::Error::Api(status) = fought else {
        panic!("{fought}")
    };
    let causes = status.details.map(|d| d.causes).unwrap_or_default();
    assert_eq!(
        (
            status.code,
            causes[0].reason.as_str(),
            causes[0].field.as_str()
        ),
        (409, "FieldManagerConflict", ".data.x")
    );
    api.patch(
        "a",
        &two.force(),
        &Patch::Apply(manifest(json!({"x": "2"}))),
    )
    .await
    .expect("forced");
    let left = api
        .patch("a", &one, &Patch::Apply(manifest(json!({}))))
        .await
        .expect("applied");
    let data = left.data.expect("data");
    assert_eq!(
        data.get("x").map(String::as_str),
        Some("2"),
        "two's field stays"
    );
    assert_eq!(data.get("y"), None, "what one gave up is gone");
    let again = api
        .patch("a", &one, &Patch::Apply(manifest(json!({}))))
        .await
        .expect("applied");
    assert_eq!(
        again.metadata.resource_version, left.metadata.resource_version,
        "a second apply changes nothing"
    );
}
