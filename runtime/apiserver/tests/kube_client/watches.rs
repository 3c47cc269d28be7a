//! Lists and watches.

use super::*;

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
