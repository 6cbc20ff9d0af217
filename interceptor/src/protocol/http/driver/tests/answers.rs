//! How answers are framed, cut off and recorded.

use super::*;

#[tokio::test]
async fn answers_pass_with_their_framing_and_without_what_leads_elsewhere() {
    let told = "HTTP/1.1 200 OK\r\nAlt-Svc: h3=\":443\"\r\nConnection: X-Hop\r\nX-Hop: 1\r\nSet-Cookie: s=1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nTrailer: x\r\n\r\n";
    let mut scene = Scene::new(Answer::Permit(&[]), told);
    let (head, body) = scene.ask("GET /v1/x HTTP/1.1\r\nHost: api.test\r\n\r\n").await;
    assert_eq!(body, b"2\r\nhi\r\n0\r\n\r\n");
    assert!(head.fields.get("alt-svc").is_none() && head.fields.get("x-hop").is_none());
    assert!(head.fields.get("set-cookie").is_none() && !scene.recorded().contains("s=1"), "cookies are secrets");
    // Until it closes: in chunks from here on.
    let mut scene = Scene::with(Answer::Permit(&[]), "HTTP/1.1 200 OK\r\n\r\nhi", |_, fake| fake.closes = true);
    for _ in 0..2 {
        let (head, body) = scene.ask("GET /v1/x HTTP/1.1\r\nHost: api.test\r\n\r\n").await;
        assert_eq!((head.length, &body[..]), (codec::Length::Chunked, &b"2\r\nhi\r\n0\r\n\r\n"[..]));
    }
    // Cut off by the target before anything is out, it is refused; later, it is cut off for the agent: what is incomplete does
    // not look complete.
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi";
    let mut scene = Scene::with(Answer::Permit(&[]), cut, |_, fake| fake.closes = true);
    let (head, body) = scene.ask("GET /v1/x HTTP/1.1\r\nHost: api.test\r\n\r\n").await;
    assert!(head.status == 502 && String::from_utf8_lossy(&body).contains("closed within a message"));
    let cut = format!("HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n{}hi", "-".repeat(200_000));
    let mut scene = Scene::with(Answer::Permit(&[]), cut, |_, fake| fake.closes = true);
    scene.agent.write_all(b"GET /v1/x HTTP/1.1\r\nHost: api.test\r\n\r\n").await.unwrap();
    let mut all = Vec::new();
    timeout(Duration::from_secs(5), scene.agent.read_to_end(&mut all)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&all).ends_with("hi"));
    assert!(matches!(scene.served.await.unwrap(), Err(Failure::Upstream(_))));
}

#[tokio::test]
async fn what_is_short_is_one_frame_of_the_recording_each_way() {
    let mut scene = Scene::new(Answer::Permit(&[]), OK);
    scene.ask("POST /v1/x HTTP/1.1\r\nHost: api.test\r\nContent-Length: 2\r\n\r\n{}").await;
    let observed = scene.gate.observed.lock();
    let data = observed.iter().filter_map(|event| match event {
        Observation::Data(direction, bytes) => Some((*direction, String::from_utf8_lossy(bytes).into_owned())),
        _ => None,
    });
    let data: Vec<_> = data.collect();
    assert_eq!(data.len(), 2, "{data:?}");
    assert!(data[0].0 == Direction::FromAgent && data[0].1.ends_with("\r\n\r\n{}"), "{data:?}");
    assert!(data[1].0 == Direction::ToAgent && data[1].1.ends_with("\r\n\r\nhi"), "{data:?}");
}

#[tokio::test]
async fn what_turns_out_to_be_no_json_is_cut_off_there() {
    let told = |note: &str| {
        let begun = format!("{{\"name\":\"Ada\",\"note\":\"{note}\",");
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n\
             {:x}\r\n{begun}\r\n10\r\nno json: ada@x.o\r\n0\r\n\r\n",
            begun.len()
        )
    };
    // Before anything is out, it is refused.
    let mut scene = Scene::new(Answer::Permit(&["pii"]), told(""));
    let (head, body) = scene.ask("GET /v1/customers/7 HTTP/1.1\r\nHost: api.test\r\n\r\n").await;
    assert!(head.status == 502 && !String::from_utf8_lossy(&body).contains("ada@"));
    let mut scene = Scene::new(Answer::Permit(&["pii"]), told(&"-".repeat(200_000)));
    scene.agent.write_all(b"GET /v1/customers/7 HTTP/1.1\r\nHost: api.test\r\n\r\n").await.unwrap();
    let mut all = Vec::new();
    timeout(Duration::from_secs(5), scene.agent.read_to_end(&mut all)).await.unwrap().unwrap();
    let all = String::from_utf8(all).unwrap();
    assert!(all.contains("Ada") && !all.contains("ada@") && !all.contains("\r\n0\r\n"), "{all}");
    assert!(matches!(scene.served.await.unwrap(), Err(Failure::Upstream(_))));
}
