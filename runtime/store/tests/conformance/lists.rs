//! Order, prefixes, pages, old revisions.

use super::*;

pub async fn a_list_is_sorted_and_ends_with_its_prefix(store: Arc<dyn Store>) {
    for key in [
        "/b/2", "/a/1", "/b0", "/b/10", "/b", "/b/é", "/b/1", "/c/1", "/b.",
    ] {
        store.create(key, bytes(key)).await.unwrap();
    }
    let head = store.revision().await.unwrap();
    let all = store.list("/b/", None, 0, None).await.unwrap();
    assert_eq!(
        (keys(&all), all.revision, all.remaining),
        (vec!["/b/1", "/b/10", "/b/2", "/b/é"], head, 0)
    );
    let part = store.list("/b/", Some("/b/1"), 2, None).await.unwrap();
    assert_eq!((keys(&part), part.remaining), (vec!["/b/10", "/b/2"], 1));
    let between = store.list("/b/", Some("/b/11"), 0, None).await.unwrap();
    assert_eq!(keys(&between), ["/b/2", "/b/é"], "`after` need not exist");
    for (after, count) in [("/a/9", 4), ("/b/é", 0), ("/c", 0)] {
        assert_eq!(
            store
                .list("/b/", Some(after), 0, None)
                .await
                .unwrap()
                .entries
                .len(),
            count,
            "after {after}"
        );
    }
    assert_eq!(
        store.list("", None, 0, None).await.unwrap().entries.len(),
        9
    );
    assert_eq!(
        store.list("/none/", None, 5, None).await.unwrap(),
        Page {
            entries: vec![],
            revision: head,
            remaining: 0
        }
    );
}

pub async fn pages_show_one_revision_while_others_write(store: Arc<dyn Store>) {
    for n in 0..50 {
        store
            .create(&format!("/p/{n:03}"), bytes("old"))
            .await
            .unwrap();
    }
    let mut page = store.list("/p/", None, 7, None).await.unwrap();
    let (revision, mut seen) = (page.revision, page.entries.clone());
    while page.remaining > 0 {
        let n = seen.len();
        let update = store.get(&format!("/p/{n:03}")).await.unwrap().unwrap();
        store
            .update(&update.key, bytes("new"), update.modified)
            .await
            .unwrap();
        store
            .create(&format!("/p/{n:03}+"), bytes("new"))
            .await
            .unwrap();
        let last = store
            .get(&format!("/p/{:03}", 49 - n / 7))
            .await
            .unwrap()
            .unwrap();
        store.delete(&last.key, last.modified).await.unwrap();
        let after = seen.last().unwrap().key.clone();
        page = store
            .list("/p/", Some(&after), 7, Some(revision))
            .await
            .unwrap();
        assert_eq!(
            (page.revision, page.remaining as usize),
            (revision, 50 - seen.len() - page.entries.len())
        );
        seen.extend(page.entries.iter().cloned());
    }
    let names: Vec<_> = seen.iter().map(|e| e.key.clone()).collect();
    assert_eq!(
        names,
        (0..50).map(|n| format!("/p/{n:03}")).collect::<Vec<_>>()
    );
    assert!(
        seen.iter()
            .all(|e| e.value == "old" && e.modified <= revision)
    );
}

pub async fn an_old_revision_lists_as_it_was(store: Arc<dyn Store>) {
    let mut model: Vec<Entry> = Vec::new();
    let mut moments = Vec::new();
    for step in 0..60_usize {
        let key = format!("/{}", (step * 7) % 11);
        let known = model.iter().position(|e| e.key == key);
        match known {
            Some(i) if step % 3 == 0 => {
                let gone = store.delete(&key, model[i].modified).await.unwrap();
                model.remove(i);
                moments.push((gone, model.clone()));
            }
            Some(i) => {
                let changed = store
                    .update(&key, bytes(&step.to_string()), model[i].modified)
                    .await
                    .unwrap();
                model[i] = entry(&key, &step.to_string(), model[i].created, changed);
                moments.push((changed, model.clone()));
            }
            None => {
                let made = store.create(&key, bytes(&step.to_string())).await.unwrap();
                model.push(entry(&key, &step.to_string(), made, made));
                model.sort_by(|a, b| a.key.cmp(&b.key));
                moments.push((made, model.clone()));
            }
        }
    }
    for (at, entries) in moments {
        let page = store.list("/", None, 0, Some(at)).await.unwrap();
        assert_eq!(
            page,
            Page {
                entries,
                revision: at,
                remaining: 0
            }
        );
    }
}

pub async fn the_future_cannot_be_read(store: Arc<dyn Store>) {
    let head = store.create("/a", bytes("1")).await.unwrap();
    let asked = head + 1;
    let is_future = |e: &Error| matches!(e, Error::Future { asked: a, current: c } if (*a, *c) == (asked, head));
    let listed = store.list("/", None, 0, Some(asked)).await.unwrap_err();
    assert!(is_future(&listed), "{listed:?}");
    let watched = store.watch("/", asked).await.err().expect("a refusal");
    assert!(is_future(&watched), "{watched:?}");
    let compacted = store.compact(asked).await.unwrap_err();
    assert!(is_future(&compacted), "{compacted:?}");
}
