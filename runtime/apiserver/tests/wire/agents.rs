//! What the agent of a host gets.

use super::*;

#[tokio::test]
async fn only_an_administrator_and_the_agent_itself_get_credentials_for_a_host() {
    let running = Running::start().await;
    let ask = admin(&running);
    let hosts = "/apis/skysail.dev/v1alpha1/hosts";
    let host = json!({"apiVersion": "skysail.dev/v1alpha1", "kind": "Host", "metadata": {"name": "h1"},
        "spec": {"cloud": "east", "machineType": "small"}});
    let made = ask.post(hosts, &host).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let given = ask
        .post(&format!("{hosts}/h1/credential"), &json!({}))
        .await;
    assert!(
        given.body["kubeconfig"]
            .as_str()
            .is_some_and(|k| k.contains("skysail:host:h1")),
        "{}",
        given.body
    );
    let agent = Ask {
        running: &running,
        identity: Some(Identity::host("h1")),
    };
    assert_eq!(
        agent
            .post(&format!("{hosts}/h1/credential"), &json!({}))
            .await
            .code,
        201
    );
    let other = Ask {
        running: &running,
        identity: Some(Identity::host("h2")),
    };
    assert_eq!(
        other
            .post(&format!("{hosts}/h1/credential"), &json!({}))
            .await
            .code,
        403
    );
    assert_eq!(
        ask.post(&format!("{hosts}/h2/credential"), &json!({}))
            .await
            .code,
        404
    );
}

#[tokio::test]
async fn an_agent_sees_the_ports_of_networks_that_it_carries_and_renews_its_own_lease_only() {
    let running = Running::start().await;
    let ask = admin(&running);
    let port = |name: &str, vni: u32, host: &str| {
        json!({"apiVersion": "skysail.dev/v1alpha1", "kind": "Port", "metadata": {"name": name},
            "spec": {"container": "c", "network": "n", "interface": 0, "vni": vni, "address": name.trim_start_matches("n."),
                "cidr": "10.0.0.0/24", "gateway": "10.0.0.1", "mac": "02:00:0a:00:00:05", "dnsDomain": "n.internal",
                "location": {"host": host, "epoch": 1}}})
    };
    let ports = "/apis/skysail.dev/v1alpha1/namespaces/default/ports";
    for (name, vni, host) in [
        ("n.10.0.0.5", 7, "h1"),
        ("n.10.0.0.6", 7, "h2"),
        ("n.10.0.0.7", 8, "h2"),
    ] {
        let made = ask.post(ports, &port(name, vni, host)).await;
        assert_eq!(made.code, 201, "{}", made.body);
    }
    let agent = Ask {
        running: &running,
        identity: Some(Identity::host("h1")),
    };
    let all = "/apis/skysail.dev/v1alpha1/ports?fieldSelector=";
    let carried = agent.get(&format!("{all}spec.vni%3D7")).await;
    assert_eq!(
        carried.body["items"].as_array().map(Vec::len),
        Some(2),
        "{}",
        carried.body
    );
    assert_eq!(
        agent
            .get(&format!("{all}spec.location.host%3Dh1"))
            .await
            .code,
        200
    );
    for foreign in [
        "spec.vni%3D8",
        "spec.location.host%3Dh2",
        "metadata.name%3Dn.10.0.0.6",
    ] {
        assert_eq!(
            agent.get(&format!("{all}{foreign}")).await.code,
            403,
            "{foreign}"
        );
    }
    let policies = |namespace: &str| {
        format!("/apis/skysail.dev/v1alpha1/namespaces/{namespace}/securitypolicies")
    };
    assert_eq!(agent.get(&policies("default")).await.code, 200);
    assert_eq!(agent.get(&policies("kube-system")).await.code, 403);
    let every = "/apis/skysail.dev/v1alpha1/securitypolicies";
    assert_eq!(agent.get(every).await.code, 403);
    let opened = json!({"apiVersion": "skysail.dev/v1alpha1", "kind": "SecurityPolicy",
        "metadata": {"name": "open"}, "spec": {"containerSelector": {}, "ingress": [{}]}});
    let written = agent.post(&policies("default"), &opened).await;
    assert_eq!(written.code, 403);
    let leases = "/apis/coordination.k8s.io/v1/namespaces/skysail-system/leases";
    let lease = |name: &str| json!({"metadata": {"name": name}, "spec": {"holderIdentity": name}});
    assert_eq!(agent.post(leases, &lease("h1")).await.code, 201);
    assert_eq!(agent.get(&format!("{leases}/h1")).await.code, 200);
    assert_eq!(agent.post(leases, &lease("h2")).await.code, 403);
    assert_eq!(agent.get(leases).await.code, 403);
}

#[tokio::test]
async fn a_migration_lets_its_source_name_the_target_as_owner_once_and_its_target_look() {
    let running = Running::start().await;
    let ask = admin(&running);
    let base = "/apis/skysail.dev/v1alpha1/namespaces/default";
    let container = json!({"apiVersion": "skysail.dev/v1alpha1", "kind": "Container",
        "metadata": {"name": "c"}, "spec": {"image": "i", "instanceType": "t"}});
    let made = ask.post(&format!("{base}/containers"), &container).await;
    let uid = made.body["metadata"]["uid"].clone();
    let placed = json!({"status": {"host": "h1", "epoch": 4}});
    let status = format!("{base}/containers/c/status");
    assert_eq!(ask.merge(&status, &placed).await.code, 200);
    let agent = |host: &str| Ask {
        running: &running,
        identity: Some(Identity::host(host)),
    };
    let moved = json!({"status": {"host": "h2", "epoch": 5}});
    assert_eq!(agent("h1").merge(&status, &moved).await.code, 403);
    assert_eq!(
        agent("h2").get(&format!("{base}/containers/c")).await.code,
        403
    );

    let migration = json!({"apiVersion": "skysail.dev/v1alpha1", "kind": "Migration",
        "metadata": {"name": "m"}, "spec": {"container": "c"}});
    let made = ask.post(&format!("{base}/migrations"), &migration).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let accepted = json!({"status": {"phase": "Preparing", "source": "h1", "target": "h2", "epoch": 4,
        "containerUid": uid}});
    let of = format!("{base}/migrations/m/status");
    assert_eq!(ask.merge(&of, &accepted).await.code, 200);

    // Both look at it and say how far it is; neither says what is to be done; no other host sees it.
    let list = "/apis/skysail.dev/v1alpha1/migrations?fieldSelector=status.target%3D";
    assert_eq!(agent("h2").get(&format!("{list}h2")).await.code, 200);
    assert_eq!(agent("h3").get(&format!("{list}h2")).await.code, 403);
    let far = json!({"status": {"phase": "Copying"}});
    assert_eq!(agent("h1").merge(&of, &far).await.code, 200);
    assert_eq!(agent("h3").merge(&of, &far).await.code, 403);
    let other = json!({"status": {"target": "h3"}});
    assert_eq!(agent("h1").merge(&of, &other).await.code, 403);

    let get = format!("{base}/containers/c");
    assert_eq!(agent("h2").get(&get).await.code, 200);
    assert_eq!(agent("h3").get(&get).await.code, 403);
    let ports = format!("{base}/ports?fieldSelector=spec.container%3Dc");
    assert_eq!(agent("h2").get(&ports).await.code, 200);
    assert_eq!(agent("h1").get(&ports).await.code, 403);

    for wrong in [
        json!({"status": {"host": "h3", "epoch": 5}}),
        json!({"status": {"host": "h2", "epoch": 6}}),
        json!({"status": {"host": "h2", "epoch": 5, "allocation": {"cpu": "64"}}}),
    ] {
        assert_eq!(
            agent("h1").merge(&status, &wrong).await.code,
            403,
            "{wrong}"
        );
    }
    assert_eq!(agent("h2").merge(&status, &moved).await.code, 403);
    assert_eq!(agent("h1").merge(&status, &moved).await.code, 200);
    assert_eq!(agent("h1").merge(&status, &placed).await.code, 403);
}
