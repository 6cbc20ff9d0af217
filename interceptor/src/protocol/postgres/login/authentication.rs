//! The authentication exchange: what the target asks for, whether it may have that, and what it has to prove.
//!
//! A target that sends AuthenticationOk too early, changes its mind on the way, or asks for less than is demanded of it
//! gets nothing more.

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{SCRAM_SHA_256, SCRAM_SHA_256_PLUS};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;
use zeroize::Zeroizing;

use super::super::super::Login;
use super::failure::{LoginError, proof_name};
use super::scram::{Binding, Challenge, Kept, MEMORY, Proving, ScramError, Started};
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
    Started(Started, &'static str),
    /// SCRAM: our proof is out, the target's is awaited.
    Proving(Box<Proving>, &'static str),
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
                let challenge = scram.challenged(body.data()).map_err(broken)?;
                if challenge.rounds < LEAST_ITERATIONS {
                    self.allow(Unverified::Hash, "SCRAM with too few rounds")?;
                }
                let keys = keys(self.password(mechanism)?, &challenge).await?;
                let (message, proving) = challenge.prove(keys);
                frontend::sasl_response(message.as_bytes(), &mut out).map_err(unwritable)?;
                State::Proving(Box::new(proving), mechanism)
            }
            (State::Proving(proving, mechanism), Message::AuthenticationSaslFinal(body)) => {
                proving.finish(body.data(), &MEMORY).map_err(broken)?;
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
            Some(data) if plus => (SCRAM_SHA_256_PLUS, Binding::EndPoint(data.clone())),
            // "I could have": a target that did offer -PLUS learns that somebody took it off the list.
            Some(_) if plain => (SCRAM_SHA_256, Binding::Unrequested),
            None if plain => (SCRAM_SHA_256, Binding::Unsupported),
            _ if plus => {
                return Err(LoginError::Unsupported("SCRAM-SHA-256-PLUS alone, and has no binding for it".into()));
            }
            _ => return Err(LoginError::Unsupported(format!("SASL {}", others.join(", ")))),
        };
        let strength = if mechanism == SCRAM_SHA_256_PLUS { Unverified::Bound } else { Unverified::Proof };
        self.allow(strength, mechanism)?;
        let _there_is_one = self.password(mechanism)?;
        let scram = Started::new(binding).map_err(broken)?;
        frontend::sasl_initial_response(mechanism, scram.message().as_bytes(), out).map_err(unwritable)?;
        Ok(State::Started(scram, mechanism))
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

/// The keys that answer a challenge: remembered, or derived off the runtime's threads, since the target chooses how long
/// that takes (up to 100,000 rounds).
async fn keys(password: &Secret, challenge: &Challenge) -> Result<Kept, LoginError> {
    if let Some(known) = MEMORY.find(password.expose(), challenge) {
        return Ok(known);
    }
    let (password, salt, rounds) = (password.clone(), challenge.salt.clone(), challenge.rounds);
    let work = tokio::task::spawn_blocking(move || MEMORY.derive(password.expose(), &salt, rounds));
    work.await.map_err(|_stopped| LoginError::Unproven("it was interrupted".into()))
}

fn broken(error: ScramError) -> LoginError {
    LoginError::Unproven(error.to_string().chars().take(200).filter(|c| !c.is_control()).collect())
}

fn unwritable(error: std::io::Error) -> LoginError {
    LoginError::Unproven(error.to_string())
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
