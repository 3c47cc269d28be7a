//! Frames pass unread, in order, and only as fast as they are taken.

use super::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

#[tokio::test]
async fn frames_of_any_bytes_pass_both_ways_and_the_status_comes_last() {
    let relay = Relay::start().await;
    let mut offers = relay.offers().await;
    let (mut client, mut agent) = relay.session(&mut offers).await;
    for length in [0, 1, 4096, 1 << 20] {
        let data: Vec<u8> = (0..=255).cycle().take(length).collect();
        client.send(frame(0, &data)).await.expect("sent");
        let arrived = soon("a frame", next(&mut agent)).await.expect("a frame");
        assert!(arrived[0] == 0 && arrived[1..] == data, "{length} bytes up");
        agent.send(frame(STDOUT, &data)).await.expect("sent");
        let arrived = soon("a frame", next(&mut client)).await.expect("a frame");
        assert!(
            arrived[0] == STDOUT && arrived[1..] == data,
            "{length} bytes down"
        );
    }
    agent
        .send(frame(STDOUT, b"last words"))
        .await
        .expect("sent");
    agent.send(frame(STATUS, b"{}")).await.expect("sent");
    agent.close(None).await.expect("closed");
    assert_eq!(
        next(&mut client).await.expect("a frame")[1..],
        *b"last words"
    );
    assert_eq!(next(&mut client).await.expect("a frame")[0], STATUS);
    assert_eq!(soon("the end", next(&mut client)).await, None);
}

#[tokio::test]
async fn what_a_client_does_not_take_waits_at_the_agent_and_none_of_it_is_lost() {
    const FRAME: usize = 32 << 10;
    const FRAMES: usize = (50 << 20) / FRAME;
    let relay = Relay::start().await;
    let mut offers = relay.offers().await;
    let (mut client, mut agent) = relay.session(&mut offers).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let sending = tokio::spawn(async move {
        for i in 0..FRAMES {
            let byte = u8::try_from(i % 251).expect("a byte");
            agent
                .send(frame(STDOUT, &[byte; FRAME]))
                .await
                .expect("sent");
            counter.fetch_add(FRAME, SeqCst);
        }
        agent.close(None).await.expect("closed");
    });
    // Sending comes to a stand although nothing is taken: what is on the way is bounded.
    let stand = async {
        let (mut before, mut unchanged) = (0, 0);
        while unchanged < 20 {
            tokio::time::sleep(Duration::from_millis(25)).await;
            let now = sent.load(SeqCst);
            unchanged = if now > 0 && now == before {
                unchanged + 1
            } else {
                0
            };
            before = now;
        }
        before
    };
    let ahead = soon("a stand", stand).await;
    assert!(
        ahead < 25 << 20,
        "{ahead} bytes went to a client that takes none"
    );
    for i in 0..FRAMES {
        let data = soon("a frame", next(&mut client)).await.expect("a frame");
        let byte = u8::try_from(i % 251).expect("a byte");
        assert!(
            data.len() == FRAME + 1 && data[1..].iter().all(|b| *b == byte),
            "frame {i}"
        );
    }
    assert_eq!(next(&mut client).await, None);
    sending.await.expect("all sent");
}
