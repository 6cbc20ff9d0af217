//! The PostgreSQL driver between a listener and a real server, in this process: without capture, identity or record.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::net::{TcpListener, TcpStream};

use crate::mask::Rules;
use crate::policy::{Command, Decision, Denial, Fault, Held, Permit, Recorded, Retry};
use crate::protocol::postgres::Postgres;
use crate::protocol::{
    Admitted, Cancel, Conn, Dial, Gate, Impact, Login, Observation, Patience, Protocol, Target, Verdict,
};
use crate::secret::Secret;
use crate::telemetry::SessionId;
use crate::tls;

/// Opens legs to a server on this machine.
#[derive(Debug)]
pub struct Local(pub u16);

impl Dial for Local {
    fn dial(&self) -> BoxFuture<'_, io::Result<tls::Stream>> {
        Box::pin(async {
            let stream = TcpStream::connect(("127.0.0.1", self.0)).await?;
            stream.set_nodelay(true)?;
            Ok(tls::Stream::Tcp(stream))
        })
    }

    fn place(&self) -> String {
        self.0.to_string()
    }
}

/// Serves every connection to a new port of this machine with that gate, and gives the port. Ends with the
/// runtime.
///
/// # Errors
/// When there is no port to listen on.
pub async fn serve(server: u16, name: &str, rules: Arc<Rules>, gate: Arc<dyn Gate>) -> io::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let target = Arc::new(Target {
        name: name.into(),
        host: "localhost".into(),
        agent_tls: None,
        http: None,
        upstream_tls: tls::Upstream::default(),
    });
    let dial: Arc<dyn Dial> = Arc::new(Local(server));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let conn = Conn {
                agent: tls::Stream::Tcp(stream),
                target: Arc::clone(&target),
                dial: Arc::clone(&dial),
                rules: Arc::clone(&rules),
                session: SessionId::NONE,
                patience: Patience::default(),
            };
            let gate = Arc::clone(&gate);
            tokio::spawn(async move {
                if let Err(failure) = Postgres.serve(conn, &*gate).await {
                    tracing::warn!(%failure, "session failed");
                }
            });
        }
    });
    Ok(port)
}

/// What decides on commands.
pub type Judge = Box<dyn Fn(&Command) -> Decision + Send + Sync>;

/// A gate of nothing but policy: everybody is admitted, nobody approves, nothing is recorded.
pub struct JudgeGate {
    judge: Judge,
    login: Login,
}

impl JudgeGate {
    /// A gate with that judge, whose sessions log in at the server as `user`.
    #[must_use]
    pub fn new(user: &str, judge: Judge) -> Self {
        Self { judge, login: Login { user: user.to_owned(), password: None, session: None } }
    }
}

impl std::fmt::Debug for JudgeGate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JudgeGate")
    }
}

impl Gate for JudgeGate {
    fn wants_token(&self) -> bool {
        false
    }

    fn attest(&self, _presented: Option<Secret>) -> BoxFuture<'_, Result<Admitted, Denial>> {
        Box::pin(async { Ok(Admitted { identity: "tester".into(), login: self.login.clone() }) })
    }

    fn judge(&self, command: &Command) -> BoxFuture<'_, Result<Verdict, Denial>> {
        let decision = (self.judge)(command);
        Box::pin(async move {
            match decision {
                Decision::Permit(permitted) => Ok(Verdict::Permit(permitted.into_permit(Recorded::at(0)))),
                Decision::Hold(held) => Ok(Verdict::Hold(held)),
                Decision::Deny(denied) => Err(refusal(&denied.action, &denied.reason)),
            }
        })
    }

    fn hold<'a>(&'a self, _: &'a Command, held: Held, _: Impact) -> BoxFuture<'a, Result<Permit, Denial>> {
        Box::pin(async move { Err(refusal("a held command", &held.reason)) })
    }

    fn observe(&self, _event: Observation) -> BoxFuture<'_, Result<(), Denial>> {
        Box::pin(async { Ok(()) })
    }

    fn ended(&self) -> BoxFuture<'_, Denial> {
        Box::pin(std::future::pending())
    }

    fn publish_cancel(&self, _key: Bytes, _cancel: Arc<dyn Cancel>) {}

    fn cancel(&self, _key: &[u8]) -> BoxFuture<'_, Result<Arc<dyn Cancel>, Denial>> {
        Box::pin(async { Err(refusal("a cancel request", "nothing is cancelled here")) })
    }
}

fn refusal(what: &str, reason: &str) -> Denial {
    Denial {
        fault: Fault::Agent,
        what: what.to_owned(),
        rule: None,
        reason: reason.to_owned(),
        remedy: None,
        retry: Retry::Never,
        session: SessionId::NONE,
    }
}
