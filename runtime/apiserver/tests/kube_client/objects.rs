//! Objects are written and read back.

use super::*;

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
