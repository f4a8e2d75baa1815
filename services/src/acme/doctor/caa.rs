//! Who may issue for a name (RFC 8659), and how it must be validated (RFC 8657).

use hickory_proto::rr::rdata::CAA;
use hickory_proto::rr::{RData, RecordType};

use super::names::{Ask, parse, records};
use super::report::Check;

/// Properties that authorities know, or that say nothing of certificates for servers (RFC 8659, RFC 9495).
const KNOWN: [&str; 7] =
    ["issue", "issuewild", "iodef", "issuemail", "issuevmc", "contactemail", "contactphone"];

/// What a record may ask for (RFC 8657).
const METHODS: &str = "validationmethods";
const ACCOUNT: &str = "accounturi";

const CHECK: &str = "caa";

/// An authority, and the names that CAA records mean it by; none where it does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Issuer {
    pub(super) directory: String,
    pub(super) identities: Vec<String>,
    /// The URL of our account there, where there is one.
    pub(super) account: Option<String>,
}

/// What is asked for.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    /// A certificate for a wildcard.
    pub(super) wildcard: bool,
    /// How it will be validated; any of them, at one time or another.
    pub(super) methods: &'a [&'a str],
    /// How it could be, if somebody asked for it.
    pub(super) others: &'a [&'a str],
}

/// The records that count for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Relevant {
    /// Where they stand.
    owner: String,
    records: Vec<CAA>,
}

/// What the records say about one authority.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// It may, if these conditions are met.
    May(Vec<String>),
    /// It may not.
    Forbidden,
    /// Nobody knows what it is called.
    Unknown,
}

impl Verdict {
    /// What stands between the authority and a certificate, if it may be overcome.
    fn limit(&self, directory: &str) -> Option<String> {
        match self {
            Self::May(conditions) if conditions.is_empty() => None,
            Self::May(conditions) => Some(format!("{directory} only with {}", conditions.join(", "))),
            Self::Forbidden => Some(format!("{directory} may not issue")),
            Self::Unknown => Some(format!("{directory} does not say what it is called there")),
        }
    }
}

/// The records that count: those of the name, else of the nearest name above it that has any (RFC 8659, section 3).
pub(super) async fn relevant(ask: &dyn Ask, host: &str) -> Result<Option<Relevant>, String> {
    let mut at = parse(host)?;
    while !at.is_root() {
        let found = records(ask, &at, RecordType::CAA).await.map_err(|error| format!("{at}: {error}"))?;
        let records: Vec<CAA> = found
            .into_iter()
            .filter_map(|data| match data {
                RData::CAA(caa) => Some(caa),
                _ => None,
            })
            .collect();
        if !records.is_empty() {
            return Ok(Some(Relevant { owner: at.to_ascii(), records }));
        }
        at = at.base_name();
    }
    Ok(None)
}

/// What is to be said of it.
pub(super) fn check(found: Option<&Relevant>, issuers: &[Issuer], asked: &Asked<'_>) -> Check {
    let Some(relevant) = found else {
        return Check::ok(CHECK, "there are no CAA records: every authority may issue");
    };
    if let Some(tag) = relevant.critical() {
        return critical(relevant, tag);
    }
    let Some(permitting) = relevant.permitting(asked.wildcard) else {
        return Check::ok(CHECK, format!("the CAA records of {} restrict nobody here", relevant.owner));
    };
    if issuers.is_empty() {
        return Check::skip(CHECK, "there is no authority to look for");
    }
    let listed = permitting.iter().map(|caa| format!("{} {:?}", caa.tag, text(caa)));
    let listed = format!("{}: {}", relevant.owner, listed.collect::<Vec<_>>().join(", "));
    let verdicts: Vec<_> =
        issuers.iter().map(|issuer| (issuer, judge(&permitting, issuer, asked.methods))).collect();
    let forbidden = verdicts.iter().filter(|(_, verdict)| *verdict == Verdict::Forbidden).count();
    if forbidden == verdicts.len() {
        let advice = advice(&permitting, issuers, asked);
        return Check::fail(CHECK, format!("{listed}: forbids the authority"), &advice);
    }
    let limits = verdicts.iter().filter_map(|(issuer, verdict)| verdict.limit(&issuer.directory));
    let limits: Vec<_> = limits.collect();
    if limits.is_empty() {
        return Check::ok(CHECK, format!("{listed}: allows the authority"));
    }
    Check::warn(CHECK, format!("{listed}; {}", limits.join("; ")), "see that the records allow what you need")
}

/// What to do where nobody may issue.
fn advice(permitting: &[&CAA], issuers: &[Issuer], asked: &Asked<'_>) -> String {
    let may =
        |issuer: &Issuer, methods: &[&str]| matches!(judge(permitting, issuer, methods), Verdict::May(_));
    let other = asked.others.iter().find(|other| issuers.iter().any(|issuer| may(issuer, &[**other])));
    if let Some(other) = other {
        return format!("the record asks for another validation: have it issued with --challenge {other}");
    }
    let ours = issuers.iter().find_map(|issuer| {
        let account = issuer.account.as_deref()?;
        may(&Issuer { account: None, ..issuer.clone() }, asked.methods)
            .then_some((account, &issuer.directory))
    });
    if let Some((account, directory)) = ours {
        return format!("the record is for another account: ours at {directory} is {account}");
    }
    let tag = if asked.wildcard { "issuewild" } else { "issue" };
    match issuers.iter().flat_map(|issuer| &issuer.identities).next() {
        Some(name) => format!("add there: CAA 0 {tag} \"{name}\""),
        None => "change the CAA record so that it names your authority".to_owned(),
    }
}

/// Nobody could say.
pub(super) fn unknown(error: &str) -> Check {
    let advice = "an authority that can't look CAA records up must not issue: look at the name's DNS servers";
    Check::fail(CHECK, error, advice)
}

/// What is critical and not understood forbids (RFC 8659, section 4.1).
fn critical(relevant: &Relevant, tag: &str) -> Check {
    let found =
        format!("{} has the critical property {tag:?}, which authorities may not understand", relevant.owner);
    Check::fail(CHECK, found, "remove it, or its critical flag")
}

impl Relevant {
    /// The records that say who may issue; nothing where none does, and everybody may. For a wildcard `issuewild` goes
    /// before `issue` (RFC 8659, section 4.3).
    fn permitting(&self, wildcard: bool) -> Option<Vec<&CAA>> {
        let tagged = |tag: &str| -> Vec<&CAA> {
            self.records.iter().filter(|caa| caa.tag.eq_ignore_ascii_case(tag)).collect()
        };
        let wild = if wildcard { tagged("issuewild") } else { Vec::new() };
        let found = if wild.is_empty() { tagged("issue") } else { wild };
        (!found.is_empty()).then_some(found)
    }

    fn critical(&self) -> Option<&str> {
        let unknown = |caa: &&CAA| {
            caa.issuer_critical && !KNOWN.iter().any(|known| caa.tag.eq_ignore_ascii_case(known))
        };
        self.records.iter().find(unknown).map(|caa| caa.tag.as_str())
    }
}

/// What records say about an authority.
fn judge(permitting: &[&CAA], authority: &Issuer, methods: &[&str]) -> Verdict {
    let named = permitting.iter().any(|caa| !issuer(&text(caa)).0.is_empty());
    if !named {
        return Verdict::Forbidden;
    }
    if authority.identities.is_empty() {
        return Verdict::Unknown;
    }
    let mut best: Option<Vec<String>> = None;
    for caa in permitting {
        let text = text(caa);
        let (name, parameters) = issuer(&text);
        if !authority.identities.iter().any(|identity| identity.eq_ignore_ascii_case(name)) {
            continue;
        }
        let account = authority.account.as_deref();
        let Some(conditions) = conditions(&parameters, account, methods) else { continue };
        if best.as_ref().is_none_or(|best| conditions.len() < best.len()) {
            best = Some(conditions);
        }
    }
    best.map_or(Verdict::Forbidden, Verdict::May)
}

/// What a record asks for besides the name, and nobody can tell whether it is met; nothing where we can't meet it, as
/// where it asks twice (RFC 8657, sections 3 and 4).
fn conditions(parameters: &[(&str, &str)], account: Option<&str>, methods: &[&str]) -> Option<Vec<String>> {
    let mut conditions = Vec::new();
    for (index, (key, value)) in parameters.iter().enumerate() {
        let is = |name: &str| key.eq_ignore_ascii_case(name);
        let is_known = is(METHODS) || is(ACCOUNT);
        if is_known && parameters[..index].iter().any(|(other, _)| other.eq_ignore_ascii_case(key)) {
            return None;
        }
        if is(METHODS) {
            let listed: Vec<_> = value.split(',').map(str::trim).collect();
            if !methods.iter().any(|method| listed.contains(method)) {
                return None;
            }
            if methods.iter().all(|method| listed.contains(method)) {
                continue;
            }
        }
        if is(ACCOUNT)
            && let Some(ours) = account
        {
            if ours != *value {
                return None;
            }
            continue;
        }
        conditions.push(format!("{key}={value}"));
    }
    Some(conditions)
}

/// The issuer's domain name, empty for nobody, and the parameters behind it (RFC 8659, section 4.2).
fn issuer(value: &str) -> (&str, Vec<(&str, &str)>) {
    let mut parts = value.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default();
    let parameters = parts.filter(|part| !part.is_empty());
    (
        name,
        parameters
            .map(|part| part.split_once('=').unwrap_or((part, "")))
            .map(|(k, v)| (k.trim(), v.trim()))
            .collect(),
    )
}

fn text(caa: &CAA) -> String {
    String::from_utf8_lossy(&caa.value).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::names::testing::Zone;
    use super::super::report::Outcome;
    use super::*;

    fn caa(critical: bool, tag: &str, value: &str) -> RData {
        let mut caa = CAA::new_issue(critical, None, Vec::new());
        tag.clone_into(&mut caa.tag);
        caa.value = value.as_bytes().to_vec();
        RData::CAA(caa)
    }

    fn us() -> Vec<Issuer> {
        vec![Issuer {
            directory: "https://ca.example/dir".to_owned(),
            identities: vec!["ca.example".to_owned()],
            account: None,
        }]
    }

    async fn outcome(zone: &Zone, host: &str) -> Outcome {
        let wildcard = host.starts_with("*.");
        let methods: &[&str] = if wildcard { &["dns-01"] } else { &["http-01", "tls-alpn-01"] };
        let found = relevant(zone, host.trim_start_matches("*.")).await.expect("answered");
        check(found.as_ref(), &us(), &Asked { wildcard, methods, others: &[] }).result
    }

    #[tokio::test]
    async fn the_nearest_records_above_a_name_count() {
        let zone = Zone::default()
            .with("example.com", caa(false, "issue", "other.example"))
            .with("ours.example.com", caa(false, "Issue", "CA.Example"))
            .alias("alias.example.com", "x.ours.example.com")
            .alias("leads.example.com", "ours.example.com");
        for (host, wanted) in [
            ("free.example.org", Outcome::Ok),
            ("example.com", Outcome::Fail),
            ("a.b.example.com", Outcome::Fail),
            ("ours.example.com", Outcome::Ok),
            ("a.ours.example.com", Outcome::Ok),
            // The tree of the name is climbed, not that of what it leads to; but its own records may be there.
            ("alias.example.com", Outcome::Fail),
            ("leads.example.com", Outcome::Ok),
            ("*.ours.example.com", Outcome::Ok),
        ] {
            assert_eq!(outcome(&zone, host).await, wanted, "{host}");
        }
    }

    #[tokio::test]
    async fn what_records_ask_for_is_met_or_told() {
        let zone = Zone::default()
            .with("nobody.example", caa(false, "issue", ";"))
            .with("mail.example", caa(false, "iodef", "mailto:a@mail.example"))
            .with("wild.example", caa(false, "issue", "ca.example"))
            .with("wild.example", caa(false, "issuewild", ";"))
            .with("only.example", caa(false, "issuewild", "ca.example"))
            .with("strange.example", caa(true, "tbs", "unknown"))
            .with("lenient.example", caa(false, "tbs", "unknown"))
            .with("dns.example", caa(false, "issue", "ca.example; validationmethods=dns-01"))
            .with("http.example", caa(false, "issue", "ca.example;validationmethods=http-01,dns-01"))
            .with("mine.example", caa(false, "issue", "ca.example; accounturi=https://ca.example/a/1"))
            .with("either.example", caa(false, "issue", "ca.example; accounturi=https://ca.example/a/1"))
            .with("either.example", caa(false, "issue", "ca.example"));
        for (host, wanted) in [
            ("nobody.example", Outcome::Fail),
            ("mail.example", Outcome::Ok),
            ("wild.example", Outcome::Ok),
            ("*.wild.example", Outcome::Fail),
            ("only.example", Outcome::Ok),
            ("*.only.example", Outcome::Ok),
            ("strange.example", Outcome::Fail),
            ("lenient.example", Outcome::Ok),
            ("dns.example", Outcome::Fail),
            ("*.dns.example", Outcome::Ok),
            ("http.example", Outcome::Warn),
            ("mine.example", Outcome::Warn),
            ("either.example", Outcome::Ok),
        ] {
            assert_eq!(outcome(&zone, host).await, wanted, "{host}");
        }
    }

    #[tokio::test]
    async fn an_authority_without_a_name_is_forbidden_only_where_all_are() {
        let nameless = [Issuer { identities: Vec::new(), ..us()[0].clone() }];
        let asked = Asked { wildcard: false, methods: &["http-01"], others: &[] };
        for (value, wanted) in [("ca.example", Outcome::Warn), (";", Outcome::Fail), ("", Outcome::Fail)] {
            let zone = Zone::default().with("a.example", caa(false, "issue", value));
            let found = relevant(&zone, "a.example").await.expect("answered");
            assert_eq!(check(found.as_ref(), &nameless, &asked).result, wanted, "{value:?}");
        }
    }

    #[tokio::test]
    async fn a_fallback_that_may_issue_is_enough_for_a_warning() {
        let zone = Zone::default().with("a.example", caa(false, "issue", "second.example"));
        let mut both = us();
        both.push(Issuer {
            directory: "https://second.example".to_owned(),
            identities: vec!["second.example".to_owned()],
            account: None,
        });
        let found = relevant(&zone, "a.example").await.expect("answered");
        let asked = Asked { wildcard: false, methods: &["http-01"], others: &[] };
        assert_eq!(check(found.as_ref(), &both, &asked).result, Outcome::Warn);
    }

    #[tokio::test]
    async fn a_method_that_will_not_be_used_does_not_help() {
        let records = "ca.example; validationmethods=dns-01,tls-alpn-01";
        let zone = Zone::default().with("a.example", caa(false, "issue", records));
        let found = relevant(&zone, "a.example").await.expect("answered");
        let said = |methods: &[&str], others: &[&str]| {
            let said = check(found.as_ref(), &us(), &Asked { wildcard: false, methods, others });
            (said.result, said.advice.unwrap_or_default())
        };
        let (result, advice) = said(&["http-01"], &["dns-01", "tls-alpn-01"]);
        assert_eq!(result, Outcome::Fail);
        assert!(advice.contains("--challenge dns-01"), "{advice}");
        let (result, advice) = said(&["http-01"], &["tls-alpn-01"]);
        assert!(result == Outcome::Fail && advice.contains("--challenge tls-alpn-01"), "{advice}");
        assert_eq!(said(&["http-01"], &[]).0, Outcome::Fail);
        assert_eq!(said(&["http-01", "tls-alpn-01"], &["dns-01"]).0, Outcome::Warn);
        assert_eq!(said(&["dns-01"], &["http-01"]).0, Outcome::Ok);
    }

    #[tokio::test]
    async fn the_account_must_be_ours_where_we_have_one() {
        let with =
            |account: Option<&str>| [Issuer { account: account.map(str::to_owned), ..us()[0].clone() }];
        let asked = Asked { wildcard: false, methods: &["http-01"], others: &[] };
        let (one, two) = ("https://ca.example/a/1", "https://ca.example/a/2");
        let only = format!("ca.example; accounturi={one}");
        let twice = format!("ca.example; accounturi={one}; accounturi={two}");
        for (value, account, wanted) in [
            (&only, None, Outcome::Warn),
            (&only, Some(one), Outcome::Ok),
            (&only, Some(two), Outcome::Fail),
            (&twice, None, Outcome::Fail),
            (&twice, Some(one), Outcome::Fail),
        ] {
            let zone = Zone::default().with("a.example", caa(false, "issue", value));
            let found = relevant(&zone, "a.example").await.expect("answered");
            let said = check(found.as_ref(), &with(account), &asked);
            assert_eq!(said.result, wanted, "{value} {account:?}");
            if account == Some(two) {
                assert!(said.advice.is_some_and(|advice| advice.ends_with(two)), "ours is named");
            }
        }
    }

    #[tokio::test]
    async fn what_cant_be_looked_up_is_told_with_the_name() {
        let zone = Zone::default().broken("example.com");
        let error = relevant(&zone, "a.example.com").await.expect_err("broken");
        assert!(error.contains("example.com") && error.contains("SERVFAIL"), "{error}");
        assert_eq!(unknown(&error).result, Outcome::Fail);
    }
}
