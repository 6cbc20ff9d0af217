//! The authentication exchange: what the target asks for, whether it may have that, and what it has to prove.
//!
//! A target that sends AuthenticationOk too early, changes its mind on the way, or asks for less than is demanded of it
//! gets nothing more.

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;
use zeroize::Zeroizing;

use super::super::super::Login;
use super::failure::{LoginError, proof_name};
use crate::secret::Secret;
use crate::tls::Unverified;

/// The least iteration count of a target whose certificate was not verified (RFC 7677, section 4): an impostor that
/// chose a lower one could guess at the password faster.
const LEAST_ITERATIONS: u32 = 4096;

/// One log-in's exchange.
pub(super) struct Authentication<'a> {
    login: &'a Login,
    /// What a password may be used for; `None` where the certificate was verified.
    least: Option<Unverified>,
    /// Channel binding data, on TLS.
    binding: Option<Vec<u8>>,
    state: State,
}

enum State {
    /// Nothing was asked yet.
    Fresh,
    /// SCRAM: the first message is out.
    Started(Box<ScramSha256>, &'static str),
    /// SCRAM: our proof is out, the target's is awaited.
    Proving(Box<ScramSha256>, &'static str),
    /// All was said: only AuthenticationOk may come.
    Said(&'static str),
}

impl<'a> Authentication<'a> {
    pub(super) const fn new(login: &'a Login, least: Option<Unverified>, binding: Option<Vec<u8>>) -> Self {
        Self { login, least, binding, state: State::Fresh }
    }

    /// AuthenticationOk: the mechanism by which it was reached.
    pub(super) fn accepted(self) -> Result<&'static str, LoginError> {
        match self.state {
            State::Said(mechanism) => Ok(mechanism),
            // A password is configured: whoever does not want to see it is not the target that the operator means,
            // unless its certificate says so or the operator asks for no proof.
            State::Fresh if self.login.password.is_some() => {
                self.allow(Unverified::Hash, "no password").map(|()| "none")
            }
            State::Fresh => Ok("none"),
            State::Started(..) | State::Proving(..) => {
                Err(LoginError::Unproven("it accepted before it had proven that it knows the password".into()))
            }
        }
    }

    /// The answer to any other authentication message.
    pub(super) async fn answer(&mut self, request: Message) -> Result<Option<BytesMut>, LoginError> {
        let mut out = BytesMut::new();
        let state = std::mem::replace(&mut self.state, State::Fresh);
        self.state = match (state, request) {
            (State::Fresh, Message::AuthenticationCleartextPassword) => {
                self.allow(Unverified::Clear, "a password in clear")?;
                let password = self.password("password")?.expose();
                frontend::password_message(password, &mut out).map_err(|_nul| LoginError::Password)?;
                State::Said("password")
            }
            (State::Fresh, Message::AuthenticationMd5Password(body)) => {
                self.allow(Unverified::Hash, "md5")?;
                let password = self.password("md5")?.expose();
                let hash = Zeroizing::new(md5_hash(self.login.user.as_bytes(), password, body.salt()));
                frontend::password_message(hash.as_bytes(), &mut out).map_err(|_nul| LoginError::Password)?;
                State::Said("md5")
            }
            (State::Fresh, Message::AuthenticationSasl(body)) => self.start_scram(&body, &mut out)?,
            (State::Started(scram, mechanism), Message::AuthenticationSaslContinue(body)) => {
                if iterations(body.data()).is_none_or(|count| count < LEAST_ITERATIONS) {
                    self.allow(Unverified::Hash, "SCRAM with too few rounds")?;
                }
                let scram = prove(scram, body.data().to_vec()).await?;
                frontend::sasl_response(scram.message(), &mut out).map_err(|error| broken(&error))?;
                State::Proving(scram, mechanism)
            }
            (State::Proving(mut scram, mechanism), Message::AuthenticationSaslFinal(body)) => {
                scram.finish(body.data()).map_err(|error| broken(&error))?;
                State::Said(mechanism)
            }
            (State::Fresh, other) => return Err(unsupported(&other)),
            _ => return Err(LoginError::Protocol("an authentication message came out of turn".into())),
        };
        Ok((!out.is_empty()).then_some(out))
    }

    fn start_scram(&self, body: &AuthenticationSaslBody, out: &mut BytesMut) -> Result<State, LoginError> {
        let (mut plain, mut plus, mut others) = (false, false, Vec::<String>::new());
        let mut offered = body.mechanisms();
        while let Some(name) = offered.next().map_err(|error| LoginError::Protocol(error.to_string()))? {
            match name {
                SCRAM_SHA_256 => plain = true,
                SCRAM_SHA_256_PLUS => plus = true,
                other if others.len() < 8 => others.push(other.chars().take(32).filter(|c| !c.is_control()).collect()),
                _ => {}
            }
        }
        let (mechanism, binding) = match &self.binding {
            Some(data) if plus => (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(data.clone())),
            // "I could have": a target that did offer -PLUS learns that somebody took it off the list.
            Some(_) if plain => (SCRAM_SHA_256, ChannelBinding::unrequested()),
            None if plain => (SCRAM_SHA_256, ChannelBinding::unsupported()),
            _ if plus => {
                return Err(LoginError::Unsupported("SCRAM-SHA-256-PLUS alone, and has no binding for it".into()));
            }
            _ => return Err(LoginError::Unsupported(format!("SASL {}", others.join(", ")))),
        };
        let strength = if mechanism == SCRAM_SHA_256_PLUS { Unverified::Bound } else { Unverified::Proof };
        self.allow(strength, mechanism)?;
        let scram = ScramSha256::new(self.password(mechanism)?.expose(), binding);
        frontend::sasl_initial_response(mechanism, scram.message(), out).map_err(|error| broken(&error))?;
        Ok(State::Started(Box::new(scram), mechanism))
    }

    fn password(&self, method: &'static str) -> Result<&Secret, LoginError> {
        self.login.password.as_ref().ok_or(LoginError::NoPassword(method))
    }

    fn allow(&self, strength: Unverified, method: &'static str) -> Result<(), LoginError> {
        match self.least {
            Some(least) if strength < least => Err(LoginError::Weak { method, least: proof_name(least) }),
            _ => Ok(()),
        }
    }
}

/// Off the runtime's threads: the target chooses how long it takes (up to the library's 100,000 rounds).
async fn prove(mut scram: Box<ScramSha256>, challenge: Vec<u8>) -> Result<Box<ScramSha256>, LoginError> {
    let work = tokio::task::spawn_blocking(move || scram.update(&challenge).map(|()| scram));
    match work.await {
        Ok(outcome) => outcome.map_err(|error| broken(&error)),
        Err(_stopped) => Err(LoginError::Unproven("it was interrupted".into())),
    }
}

/// The `i=` attribute of a server-first-message; the library reads and checks the whole of it.
fn iterations(challenge: &[u8]) -> Option<u32> {
    std::str::from_utf8(challenge).ok()?.split(',').find_map(|part| part.strip_prefix("i="))?.parse().ok()
}

fn broken(error: &std::io::Error) -> LoginError {
    LoginError::Unproven(error.to_string().chars().take(200).filter(|c| !c.is_control()).collect())
}

fn unsupported(request: &Message) -> LoginError {
    LoginError::Unsupported(
        match request {
            Message::AuthenticationGss | Message::AuthenticationGssContinue(_) => "GSSAPI",
            Message::AuthenticationSspi => "SSPI",
            Message::AuthenticationKerberosV5 => "Kerberos V5",
            Message::AuthenticationScmCredential => "SCM credentials",
            _ => return LoginError::Protocol("it sent something else than an authentication request".into()),
        }
        .into(),
    )
}
