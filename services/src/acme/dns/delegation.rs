//! Where a challenge is really answered: CNAME records of `_acme-challenge` names lead there.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use async_trait::async_trait;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::time::timeout;

use super::DnsError;
use super::exchange::About;

/// How many records may lead on.
const STEPS: usize = 8;

/// How long one resolver is waited for where another one can be asked.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long it may take to find out where a name leads, whoever is asked.
const LIMIT: Duration = Duration::from_secs(30);

/// Where the system's resolvers stand.
const SYSTEM: &str = "/etc/resolv.conf";

/// Who is asked how the rest of the world sees a name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Resolvers {
    /// Those of the system, read when they are needed.
    #[default]
    System,
    /// These.
    Fixed(Vec<SocketAddr>),
}

impl Resolvers {
    async fn list(&self) -> Vec<SocketAddr> {
        match self {
            Self::Fixed(list) => list.clone(),
            // Without the file there are none.
            Self::System => of_system(&tokio::fs::read_to_string(SYSTEM).await.unwrap_or_default()),
        }
    }

    /// The records that a name has of a type, and those that lead there, as the first resolver says that can tell.
    pub(in crate::acme) async fn records(
        &self,
        name: &Name,
        kind: RecordType,
    ) -> Result<Vec<Record>, DnsError> {
        let mut failure = DnsError::NoResolver;
        for server in self.list().await {
            let about = About { server, name };
            failure = match timeout(PATIENCE, about.ask(kind, true, None)).await {
                Ok(Ok(answer)) if told(&answer) => return Ok(answer.answers),
                Ok(Ok(answer)) => about.refused("query", &answer),
                Ok(Err(error)) => error,
                Err(_) => DnsError::Silent { server, name: name.to_ascii() },
            };
        }
        Err(failure)
    }

    /// The name that this one's records lead to; itself when there are none. `own` may know the next step already.
    pub(super) async fn follow(&self, name: &Name, own: Option<&dyn Knows>) -> Result<Name, DnsError> {
        let late = || DnsError::Unfollowed { name: name.to_ascii(), limit: LIMIT };
        timeout(LIMIT, self.end_of(name, own)).await.unwrap_or_else(|_elapsed| Err(late()))
    }

    async fn end_of(&self, name: &Name, own: Option<&dyn Knows>) -> Result<Name, DnsError> {
        let mut at = name.clone();
        for _ in 0..STEPS {
            let own = match own {
                Some(own) => own.step(&at).await?,
                None => Step::Unknown,
            };
            let step = if own == Step::Unknown { self.step(&at).await? } else { own };
            match step {
                Step::To(next) => at = next,
                Step::End | Step::Unknown => return Ok(at),
            }
        }
        Err(DnsError::Endless { name: name.to_ascii() })
    }

    async fn step(&self, name: &Name) -> Result<Step, DnsError> {
        let mut failure = None;
        for server in self.list().await {
            let about = About { server, name };
            failure = Some(match timeout(PATIENCE, about.ask(RecordType::CNAME, true, None)).await {
                Ok(Ok(answer)) if told(&answer) => return Ok(Step::of(name, &answer)),
                Ok(Ok(answer)) => about.refused("query", &answer),
                Ok(Err(error)) => error,
                Err(_) => DnsError::Silent { server, name: name.to_ascii() },
            });
        }
        failure.map_or(Ok(Step::Unknown), Err)
    }
}

/// Someone who may know where a name leads.
#[async_trait]
pub(super) trait Knows: Send + Sync {
    async fn step(&self, at: &Name) -> Result<Step, DnsError>;
}

/// What a server says about the next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// On to this name.
    To(Name),
    /// Here it is.
    End,
    /// It can't say.
    Unknown,
}

impl Step {
    /// What an answer to a question for CNAME says.
    pub(super) fn of(name: &Name, answer: &Message) -> Self {
        let target = answer.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == *name => Some(target.0.clone()),
            _ => None,
        });
        target.map_or(Self::End, Self::To)
    }
}

/// Whether the answer tells something, be it that there is nothing.
pub(super) fn told(answer: &Message) -> bool {
    matches!(answer.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
}

/// The resolvers of a `resolv.conf`.
fn of_system(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let addresses =
        lines.filter(|rest| rest.starts_with([' ', '\t'])).filter_map(|rest| rest.trim().parse().ok());
    // As many as the system's own resolver takes.
    addresses.take(3).map(|address: IpAddr| SocketAddr::new(address, 53)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_resolvers_are_read() {
        let text = "# nameserver 192.0.2.9\nsearch example.com\nnameserver 192.0.2.1\n nameserver\t2001:db8::1\nnameserver what\n";
        let expected: [SocketAddr; 2] =
            ["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()];
        assert_eq!(of_system(text), expected);
    }

    struct Circle;

    #[async_trait]
    impl Knows for Circle {
        async fn step(&self, at: &Name) -> Result<Step, DnsError> {
            Ok(Step::To(at.clone()))
        }
    }

    #[tokio::test]
    async fn a_circle_is_no_delegation() {
        let name: Name = "_acme-challenge.example.com.".parse().unwrap();
        let followed = Resolvers::Fixed(Vec::new()).follow(&name, Some(&Circle)).await;
        assert!(matches!(followed, Err(DnsError::Endless { .. })), "{followed:?}");
    }
}
