//! The attestor from end to end, with real processes, real files and a real key.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

use nix::unistd::{Gid, Uid};

use super::super::error::Fault;
use super::super::facts::tests::{Running, origin_of, run};
use super::super::level::{Guarantee, Registry};
use super::*;
use crate::clock::{ManualClock, Timestamp};
use crate::testing::issuer::{KeyKind, SigningKey, TestIssuer};

const NOW: i64 = 1_700_000_000;
const BILLING: &str = "/agents.slice/billing-1.service";
const REPORTS: &str = "/agents.slice/reports.service";
const STRANGE: &str = "/agents.slice/strange.service";

struct Bench {
    attestor: Attestor,
    clock: Arc<ManualClock>,
    issuer: TestIssuer,
    dir: tempfile::TempDir,
    child: Running,
    /// Which cgroup the process is in.
    place: Arc<AtomicU8>,
}

fn agents(dir: &Path) -> String {
    let (uid, dir) = (Uid::current(), dir.display());
    format!(
        "[[agent]]\nname='billing-bot'\nallow_privileged=true\nmatch={{cgroup='/agents.slice/billing-*.service',uid={uid}}}\n\
         token={{issuer='corp',from='file:{dir}/billing',subject='svc:billing',groups=['finance']}}\n\
         [[agent]]\nname='reports-bot'\nallow_privileged=true\nmatch={{unit='reports.service'}}\n\
         token={{issuer='corp',from='connection',subject='svc:reports'}}\n"
    )
}

fn bench_with(extra: &str) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let keys = vec![SigningKey::generate("key-1", KeyKind::Ed).unwrap()];
    let issuer = TestIssuer { url: "https://idp.example".to_owned(), keys };
    issuer.write_jwks(&dir.path().join("jwks")).unwrap();
    let text = format!(
        "[[issuer]]\nname='corp'\nkind='oidc'\nissuer='https://idp.example'\naudience='interceptor'\n\
         jwks='{}'\n{}{}",
        dir.path().join("jwks").display(),
        agents(dir.path()),
        extra.replace("DIR", &dir.path().display().to_string())
    );
    #[derive(serde::Deserialize)]
    struct Root {
        issuer: Vec<IssuerConfig>,
        agent: Vec<AgentConfig>,
    }
    let root: Root = toml::from_str(&text).unwrap();
    let place = Arc::new(AtomicU8::new(0));
    let at = place.clone();
    let path_of: CgroupPath = Arc::new(move |id| match (id, at.load(Ordering::SeqCst)) {
        (7, 0) => Ok(BILLING.to_owned()),
        (7, 1) => Ok(REPORTS.to_owned()),
        (7, 2) => Ok(STRANGE.to_owned()),
        _ => Err(io::Error::from_raw_os_error(116)),
    });
    let clock = Arc::new(ManualClock::at(Timestamp::from_unix(NOW)));
    let attestor = Attestor::new(root.issuer, root.agent, (path_of, Registry::default()), clock.clone()).unwrap();
    Bench { attestor, clock, issuer, dir, child: run(Path::new("/bin/sleep"), &["60"]), place }
}

fn bench() -> Bench {
    bench_with("")
}

impl Bench {
    fn token(&self, subject: &str, life: i64) -> String {
        self.issuer.good(subject, "interceptor", &["finance"], NOW, life).unwrap()
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("billing")
    }

    fn origin(&self) -> Origin {
        origin_of(self.child.0.id(), Uid::current().as_raw(), Gid::current().as_raw())
    }

    async fn candidates(&self) -> Candidates {
        self.attestor.candidates(&self.origin()).await.unwrap()
    }

    async fn attest(&self, presented: Option<&str>) -> Result<Attested, IdentityError> {
        let presented = presented.map(Secret::from);
        self.attestor.attest(&self.candidates().await, presented.as_ref()).await
    }

    fn move_to(&self, place: u8) {
        self.place.store(place, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn facts_and_token_together_make_an_identity() {
    let bench = bench();
    std::fs::write(bench.file(), bench.token("svc:billing", 600)).unwrap();
    assert!(!bench.candidates().await.wants_token());
    let attested = bench.attest(None).await.unwrap();
    assert_eq!(&*attested.name, "billing-bot");
    assert_eq!(*attested.groups, ["finance".to_owned()]);
    assert_eq!(attested.facts.cgroup, BILLING);
    assert_eq!(attested.token.expires_at, Timestamp::from_unix(NOW + 630));
    // What the client gives as its password does not matter to an agent whose token is a file.
    assert!(bench.attest(Some("whatever")).await.is_ok());
}

#[tokio::test]
async fn whoever_is_root_is_let_in_only_where_the_operator_insists() {
    let bench = bench_with("");
    let mut agents = bench.attestor.inner.agents.iter().map(|agent| AgentConfig::clone(agent)).collect::<Vec<_>>();
    agents.iter_mut().for_each(|agent| agent.allow_privileged = false);
    let mut candidates = bench.attestor.candidates(&bench.origin()).await.unwrap();
    candidates.agents = agents.into_iter().take(1).map(Arc::new).collect();
    candidates.facts.guarantee = Guarantee { level: Level::Privileged, lacks: vec!["it has CAP_BPF".to_owned()] };
    let refused = bench.attestor.attest(&candidates, None).await.unwrap_err();
    assert_eq!(refused.refusal, Refusal::Privileged);
    assert!(refused.reason.contains("CAP_BPF"), "{refused}");
    candidates.facts.guarantee.level = Level::Adopted;
    std::fs::write(bench.file(), bench.token("svc:billing", 600)).unwrap();
    assert!(bench.attestor.attest(&candidates, None).await.is_ok());
}

#[tokio::test]
async fn whoever_is_root_is_told_so_and_not_that_it_has_stolen_a_token_that_it_shares() {
    // Another agent with the same token, in the same file.
    let twin = "[[agent]]\nname='twin'\nmatch={cgroup='/agents.slice/twin-*.service'}\n\
                token={issuer='corp',from='file:DIR/billing',subject='svc:billing'}\n";
    let bench = bench_with(twin);
    let mut candidates = bench.candidates().await;
    let mut billing = AgentConfig::clone(&candidates.agents[0]);
    billing.allow_privileged = false;
    candidates.agents = vec![Arc::new(billing)];
    candidates.facts.guarantee = Guarantee { level: Level::Privileged, lacks: vec!["it has CAP_BPF".to_owned()] };
    std::fs::write(bench.file(), bench.token("svc:billing", 600)).unwrap();
    let refused = bench.attestor.attest(&candidates, None).await.unwrap_err();
    assert_eq!((refused.refusal, refused.agent.as_deref()), (Refusal::Privileged, Some("billing-bot")), "{refused}");
    assert!(refused.reason.contains("CAP_BPF") && refused.remedy.contains("allow_privileged"), "{refused}");
    // A token that is not its own is a stolen one all the same.
    std::fs::write(bench.file(), bench.token("svc:reports", 600)).unwrap();
    let refused = bench.attestor.attest(&candidates, None).await.unwrap_err();
    assert_eq!(refused.refusal, Refusal::ForeignToken, "{refused}");
    // Without any, it is what the operator can change that is said.
    std::fs::remove_file(bench.file()).unwrap();
    let refused = bench.attestor.attest(&candidates, None).await.unwrap_err();
    assert_eq!(refused.refusal, Refusal::Privileged, "{refused}");
}

#[tokio::test]
async fn the_token_comes_with_the_connection_where_so_configured() {
    let bench = bench();
    bench.move_to(1);
    assert!(bench.candidates().await.wants_token());
    let token = bench.token("svc:reports", 600);
    assert_eq!(&*bench.attest(Some(&token)).await.unwrap().name, "reports-bot");
    let error = bench.attest(None).await.unwrap_err();
    assert_eq!(error.refusal, Refusal::NoToken);
    assert!(error.remedy.contains("as the password"), "{error:?}");
}

#[tokio::test]
async fn the_same_token_in_another_cgroup_is_refused_and_named() {
    let bench = bench();
    std::fs::write(bench.file(), bench.token("svc:billing", 600)).unwrap();
    bench.move_to(2);
    for presented in [None, Some("hunter2")] {
        let error = bench.attest(presented).await.unwrap_err();
        assert_eq!((error.refusal, error.agent.as_deref()), (Refusal::ForeignToken, Some("billing-bot")));
        assert!(error.reason.contains("token of billing-bot presented from cgroup"), "{}", error.reason);
        assert!(error.reason.contains(STRANGE) && !error.transient, "{}", error.reason);
        assert_eq!(error.facts.unwrap().cgroup, STRANGE);
    }
}

#[tokio::test]
async fn a_stolen_token_as_password_is_recognised() {
    let bench = bench();
    for place in [1, 2] {
        bench.move_to(place);
        let candidates = bench.candidates().await;
        assert!(candidates.wants_token(), "else the stolen token would not be seen");
        let error = bench.attest(Some(&bench.token("svc:billing", 600))).await.unwrap_err();
        assert_eq!((error.refusal, error.agent.as_deref()), (Refusal::ForeignToken, Some("billing-bot")), "{error}");
    }
}

#[tokio::test]
async fn a_token_of_another_agent_in_the_own_place_is_recognised() {
    let bench = bench();
    std::fs::write(bench.file(), bench.token("svc:reports", 600)).unwrap();
    let error = bench.attest(None).await.unwrap_err();
    assert_eq!((error.refusal, error.agent.as_deref()), (Refusal::ForeignToken, Some("reports-bot")), "{error}");
}

#[tokio::test]
async fn a_file_that_the_process_cannot_read_accuses_nobody() {
    let bench = bench();
    std::fs::write(bench.file(), bench.token("svc:billing", 600)).unwrap();
    std::fs::set_permissions(bench.file(), std::fs::Permissions::from_mode(0o600)).unwrap();
    bench.move_to(2);
    let origin = origin_of(bench.child.0.id(), 54_321, 54_321);
    let candidates = bench.attestor.candidates(&origin).await.unwrap();
    let error = bench.attestor.attest(&candidates, None).await.unwrap_err();
    assert_eq!(error.refusal, Refusal::Unmatched, "{error}");
}

#[tokio::test]
async fn without_token_or_with_a_bad_one_the_check_is_named() {
    let bench = bench();
    let error = bench.attest(None).await.unwrap_err();
    assert_eq!(error.refusal, Refusal::NoToken, "{error}");
    std::fs::write(bench.file(), bench.token("svc:billing", -100)).unwrap();
    let error = bench.attest(None).await.unwrap_err();
    assert_eq!(error.refusal, Refusal::BadToken);
    assert!(error.reason.contains("expired") && error.remedy.contains("new token"), "{error:?}");
    std::fs::write(bench.file(), bench.token("svc:other", 600)).unwrap();
    let error = bench.attest(None).await.unwrap_err();
    assert!(error.reason.contains("expected sub \"svc:billing\", got \"svc:other\""), "{error}");
    std::fs::remove_file(bench.dir.path().join("jwks")).unwrap();
    let error = bench.attest(None).await.unwrap_err();
    assert_eq!((error.refusal, error.fault, error.transient), (Refusal::NoKeys, Fault::Interceptor, true), "{error}");
}

#[tokio::test]
async fn an_unknown_process_is_told_what_is_nearest() {
    let bench = bench();
    bench.move_to(2);
    let error = bench.attest(Some("hunter2")).await.unwrap_err();
    assert_eq!(error.refusal, Refusal::Unmatched);
    assert!(error.reason.contains("nearest is billing-bot: cgroup is"), "{error}");
}

#[tokio::test]
async fn two_agents_that_both_match_are_the_operators_fault() {
    let extra = "[[agent]]\nname='twin'\nallow_privileged=true\nmatch={cgroup='/agents.slice/*'}\n\
                 token={issuer='corp',from='connection',subject='svc:billing'}\n";
    let bench = bench_with(extra);
    let token = bench.token("svc:billing", 600);
    std::fs::write(bench.file(), &token).unwrap();
    let error = bench.attest(Some(&token)).await.unwrap_err();
    assert_eq!((error.refusal, error.fault), (Refusal::Ambiguous, Fault::Operator), "{error}");
    // Where the token holds for one of them alone, it decides.
    std::fs::remove_file(bench.file()).unwrap();
    assert_eq!(&*bench.attest(Some(&token)).await.unwrap().name, "twin");
}

#[tokio::test]
async fn rotated_tokens_renew_and_withdrawn_ones_do_not() {
    let bench = bench();
    std::fs::write(bench.file(), bench.token("svc:billing", 600)).unwrap();
    let candidates = bench.candidates().await;
    let first = bench.attestor.attest(&candidates, None).await.unwrap();
    std::fs::write(bench.file(), bench.token("svc:billing", 1200)).unwrap();
    let second = bench.attestor.refresh(&candidates, &first).await.unwrap();
    assert_eq!(second.token.expires_at, Timestamp::from_unix(NOW + 1230));
    bench.clock.advance(Duration::from_secs(1230));
    let error = bench.attestor.refresh(&candidates, &second).await.unwrap_err();
    assert!(error.reason.contains("expired"), "{error}");
    std::fs::remove_file(bench.file()).unwrap();
    assert_eq!(bench.attestor.refresh(&candidates, &second).await.unwrap_err().refusal, Refusal::NoToken);
}

#[tokio::test]
async fn an_ended_process_gets_nothing() {
    let mut bench = bench();
    std::fs::write(bench.file(), bench.token("svc:billing", 600)).unwrap();
    let (origin, candidates) = (bench.origin(), bench.candidates().await);
    bench.child.0.kill().unwrap();
    bench.child.0.wait().unwrap();
    assert!(bench.attestor.attest(&candidates, None).await.is_err());
    let error = bench.attestor.candidates(&origin).await.unwrap_err();
    assert_eq!((error.refusal, error.transient), (Refusal::Process, true), "{error}");
}

#[tokio::test]
async fn a_process_that_ends_before_its_password_is_checked_gets_nothing() {
    let mut bench = bench();
    bench.move_to(1);
    let candidates = bench.candidates().await;
    let token = Secret::from(bench.token("svc:reports", 600).as_str());
    assert!(bench.attestor.attest(&candidates, Some(&token)).await.is_ok());
    bench.child.0.kill().unwrap();
    bench.child.0.wait().unwrap();
    let error = bench.attestor.attest(&candidates, Some(&token)).await.unwrap_err();
    assert_eq!(error.refusal, Refusal::Process, "{error}");
}

#[tokio::test]
async fn a_socket_from_another_cgroup_is_refused() {
    let bench = bench();
    let mut origin = bench.origin();
    origin.current_cgroup = 8;
    let error = bench.attestor.candidates(&origin).await.unwrap_err();
    assert_eq!((error.refusal, error.transient), (Refusal::MovedCgroup, false));
}

#[tokio::test]
async fn hashes_bind_the_executable() {
    let wrong = "0".repeat(64);
    let right = {
        use sha2::Digest as _;
        let digest = sha2::Sha256::digest(std::fs::read("/bin/sleep").unwrap());
        digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    for (hash, matches) in [(right, true), (wrong, false)] {
        let extra = format!(
            "[[agent]]\nname='hashed'\nmatch={{unit='strange.service',exe_sha256='{hash}',exe='/**/sleep'}}\n\
             token={{issuer='corp',from='connection',subject='svc:hashed'}}\n"
        );
        let bench = bench_with(&extra);
        bench.move_to(2);
        let names: Vec<_> = bench.candidates().await.names().map(str::to_owned).collect();
        assert_eq!(names.contains(&"hashed".to_owned()), matches);
    }
}

#[tokio::test]
async fn explaining_shows_how_near_each_agent_is_and_no_token() {
    let extra = "[[agent]]\nname='anyone'\nmatch={uid=UID}\ntoken={issuer='corp',from='env:NO_SUCH',subject='x'}\n";
    let bench = bench_with(&extra.replace("UID", &Uid::current().to_string()));
    let token = bench.token("svc:billing", 600);
    std::fs::write(bench.file(), &token).unwrap();
    let who = bench.attestor.explain(bench.child.0.id()).await.unwrap();
    assert_eq!(who.agents[0].name, "anyone");
    assert!(who.agents[0].criteria.iter().all(|criterion| criterion.holds));
    let billing = who.agents.iter().find(|agent| agent.name == "billing-bot").unwrap();
    assert!(billing.criteria.iter().any(|criterion| criterion.name == "cgroup" && !criterion.holds));
    assert_eq!(billing.token, explain::TokenState::Valid);
    assert!(matches!(&who.outcome, explain::Outcome::Refused { error } if error.refusal == Refusal::ForeignToken));
    let text = serde_json::to_string(&who).unwrap();
    assert_eq!(serde_json::from_str::<explain::WhoAmI>(&text).unwrap(), who);
    assert!(token.split('.').all(|part| !text.contains(part)), "no piece of the token");
    assert!(bench.attestor.explain(u32::MAX).await.is_err());
}

#[tokio::test]
async fn warming_names_the_issuer_that_fails() {
    let bench = bench();
    assert!(bench.attestor.warm().await.is_empty());
    std::fs::remove_file(bench.dir.path().join("jwks")).unwrap();
    let failed = bench.attestor.warm().await;
    assert!(failed.len() == 1 && failed[0].0 == "corp", "{failed:?}");
}

#[tokio::test]
async fn reads_in_flight_are_bounded_in_number_and_time() {
    let bench = bench();
    let origin = bench.origin();
    let all = u32::try_from(READS_MAX).unwrap();
    let held = Arc::clone(&bench.attestor.inner.reads).acquire_many_owned(all).await.unwrap();
    tokio::time::pause();
    let error = bench.attestor.candidates(&origin).await.unwrap_err();
    assert_eq!((error.refusal, error.fault, error.transient), (Refusal::Overload, Fault::Interceptor, true));
    drop(held);
    tokio::time::resume();
    assert!(bench.attestor.candidates(&origin).await.is_ok());
}
