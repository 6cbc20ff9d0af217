//! What the API answers.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;

use super::peer::Peer;
use super::{AdoptBody, AnswerBody, Api, BODY_LIMIT, Enrolled, Fault, Status, metrics};
use crate::approval::{Answer, Approver, RequestId};
use crate::capture::Wish;
use crate::record::hold::Change;
use crate::telemetry::SessionId;

/// The API.
pub fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/metrics", get(metrics))
        .route("/v1/sessions", get(sessions))
        .route("/v1/sessions/{id}/kill", post(kill))
        .route("/v1/approvals", get(approvals))
        .route("/v1/approvals/{id}", get(approval).post(answer))
        .route("/v1/namespaces", post(adopt))
        .route("/v1/namespaces/door", get(door))
        .route("/v1/cgroups", post(enroll))
        .route("/v1/holds", post(holds))
        .route("/v1/reload", post(reload))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(api)
}

async fn status(State(api): State<Arc<Api>>, ConnectInfo(peer): ConnectInfo<Peer>) -> Response {
    if let Err(refused) = admit(&api, &peer) {
        return refused;
    }
    let loaded = api.house.loaded.load_full();
    let health = api.house.recorder.health();
    json(&Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: api.started_at,
        governed: api.governed.load().to_vec(),
        without_modules: api.without_modules.clone(),
        namespaces: api.namespaces.list(),
        ca: loaded.authority.as_ref().map(|authority| {
            let certificate = authority.certificate();
            format!("{} until {}", certificate.subject, certificate.not_after)
        }),
        policies: loaded.policies.digest().to_owned(),
        targets: loaded.targets.iter().map(|target| target.name.to_string()).collect(),
        sessions: api.house.registry.len(),
        levels: api.house.registry.levels(),
        waiting: api.house.approvals.waiting().0,
        recorder_fault: health.failing.map(|why| why.to_string()),
        witnesses: api.witnesses.load().to_vec(),
        recorder_room: health.room.map(|room| room.to_string()),
    })
}

async fn metrics(State(api): State<Arc<Api>>, ConnectInfo(peer): ConnectInfo<Peer>) -> Response {
    if let Err(refused) = admit(&api, &peer) {
        return refused;
    }
    match metrics::text(&api) {
        Ok(text) => json(&text),
        Err(error) => fault(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn sessions(State(api): State<Arc<Api>>, ConnectInfo(peer): ConnectInfo<Peer>) -> Response {
    admit(&api, &peer).map_or_else(|refused| refused, |_| json(&api.house.registry.list()))
}

async fn kill(State(api): State<Arc<Api>>, ConnectInfo(peer): ConnectInfo<Peer>, Path(id): Path<String>) -> Response {
    let approver = match admit(&api, &peer) {
        Ok(approver) => approver,
        Err(refused) => return refused,
    };
    match id.parse::<SessionId>() {
        Ok(id) if api.house.registry.kill(id, &approver.to_string()) => json(&serde_json::json!({ "killed": id })),
        Ok(id) => fault(StatusCode::NOT_FOUND, format!("no live session {id}; `interceptor sessions` lists them")),
        Err(error) => fault(StatusCode::BAD_REQUEST, error.to_string()),
    }
}

async fn approvals(State(api): State<Arc<Api>>, ConnectInfo(peer): ConnectInfo<Peer>) -> Response {
    admit(&api, &peer).map_or_else(|refused| refused, |_| json(&api.house.approvals.list()))
}

async fn approval(
    State(api): State<Arc<Api>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(id): Path<String>,
) -> Response {
    if let Err(refused) = admit(&api, &peer) {
        return refused;
    }
    match request_id(&id).and_then(|id| api.house.approvals.show(id).map_err(|error| error.to_string())) {
        Ok(request) => json(&request),
        Err(error) => fault(StatusCode::NOT_FOUND, error),
    }
}

async fn answer(
    State(api): State<Arc<Api>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(id): Path<String>,
    body: Result<Json<AnswerBody>, JsonRejection>,
) -> Response {
    let approver = match admit(&api, &peer) {
        Ok(approver) => approver,
        Err(refused) => return refused,
    };
    let Json(body) = match body {
        Ok(body) => body,
        Err(rejection) => return fault(StatusCode::BAD_REQUEST, rejection.body_text()),
    };
    let id = match request_id(&id) {
        Ok(id) => id,
        Err(error) => return fault(StatusCode::NOT_FOUND, error),
    };
    let answer = Answer { approver, at: api.house.clock.now(), reason: body.reason };
    match api.house.answer(id, body.approve, answer).await {
        Ok(request) => json(&request),
        Err(error) => fault(StatusCode::CONFLICT, error),
    }
}

async fn reload(State(api): State<Arc<Api>>, ConnectInfo(peer): ConnectInfo<Peer>) -> Response {
    if let Err(refused) = admit(&api, &peer) {
        return refused;
    }
    let loading = Arc::clone(&api);
    match tokio::task::spawn_blocking(move || (loading.reload)()).await {
        Ok(Ok(loaded)) => json(&serde_json::json!({ "loaded": loaded })),
        Ok(Err(problems)) => {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            fault(StatusCode::UNPROCESSABLE_ENTITY, format!("nothing was changed:\n{}", lines.join("\n")))
        }
        Err(error) => fault(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// Listens in the network namespace of a process, before it connects for the first time.
async fn adopt(
    State(api): State<Arc<Api>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Result<Json<AdoptBody>, JsonRejection>,
) -> Response {
    let asked_by = match admit(&api, &peer) {
        Ok(approver) => approver,
        Err(refused) => return refused,
    };
    let pid = match body {
        Ok(Json(AdoptBody { pid })) => pid,
        Err(rejection) => return fault(StatusCode::BAD_REQUEST, rejection.body_text()),
    };
    match api.namespaces.open(Wish::Announced { pid }).await {
        Ok(namespace) => {
            tracing::info!(inode = namespace.inode, pid, %asked_by, "listens in a network namespace that was announced");
            json(&namespace)
        }
        Err(error) => fault(StatusCode::CONFLICT, error.to_string()),
    }
}

/// Root holds recordings, or lets them go.
async fn holds(
    State(api): State<Arc<Api>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Result<Json<Change>, JsonRejection>,
) -> Response {
    let asked_by = match admit(&api, &peer) {
        Ok(approver) => approver,
        Err(refused) => return refused,
    };
    let change = match body {
        Ok(Json(change)) => change,
        Err(rejection) => return fault(StatusCode::BAD_REQUEST, rejection.body_text()),
    };
    if asked_by.uid != 0 {
        return fault(StatusCode::FORBIDDEN, "only root holds recordings, and lets them go".to_owned());
    }
    tracing::warn!(?change, %asked_by, "what is held of the recordings changes");
    let recorder = api.house.recorder.clone();
    match tokio::task::spawn_blocking(move || recorder.change_holds(change, &asked_by.to_string())).await {
        Ok(Ok(done)) => json(&done),
        Ok(Err(error)) => fault(StatusCode::CONFLICT, error.to_string()),
        Err(error) => fault(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// How namespaces are opened: what doctor asks.
async fn door(State(api): State<Arc<Api>>, ConnectInfo(peer): ConnectInfo<Peer>) -> Response {
    if let Err(refused) = admit(&api, &peer) {
        return refused;
    }
    let door = api.namespaces.door().await;
    door.map_or_else(|error| fault(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()), |door| json(&door))
}

/// Root has enrolled a cgroup that runs already, or let it go: takes note, and listens where its processes are.
async fn enroll(
    State(api): State<Arc<Api>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Result<Json<Enrolled>, JsonRejection>,
) -> Response {
    let asked_by = match admit(&api, &peer) {
        Ok(approver) => approver,
        Err(refused) => return refused,
    };
    let body = match body {
        Ok(Json(body)) => body,
        Err(rejection) => return fault(StatusCode::BAD_REQUEST, rejection.body_text()),
    };
    if asked_by.uid != 0 {
        return fault(StatusCode::FORBIDDEN, "only root enrolls cgroups, and lets them go".to_owned());
    }
    tracing::warn!(cgroup = %body.cgroup, governed = body.governed, %asked_by, "a cgroup is enrolled, or let go");
    (api.enroll)(body).await.map_or_else(|error| fault(StatusCode::CONFLICT, error), |enrolled| json(&enrolled))
}

#[expect(clippy::result_large_err, reason = "the error is the response itself")]
fn admit(api: &Api, peer: &Peer) -> Result<Approver, Response> {
    let is_governed = |cgroup: &str| api.capture.governs(cgroup);
    peer.admit(api.group, is_governed).map_err(|error| {
        tracing::warn!(?peer, %error, "refused at the admin socket");
        fault(StatusCode::FORBIDDEN, error)
    })
}

fn request_id(text: &str) -> Result<RequestId, String> {
    text.parse()
}

fn json(body: &impl Serialize) -> Response {
    Json(body).into_response()
}

fn fault(status: StatusCode, error: String) -> Response {
    (status, Json(Fault { error })).into_response()
}
