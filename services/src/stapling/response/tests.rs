//! Answers of all kinds: each is believed, or refused for its reason.

use rcgen::{CustomExtension, ExtendedKeyUsagePurpose, KeyUsagePurpose, date_time_ymd};
use x509_parser::asn1_rs::Tag;

use super::*;
use crate::stapling::der::write;
use crate::stapling::testing::{
    Authority, Delegate, by_key, by_name, good, part, response, revoked, single, unknown,
};

const HOUR: Duration = Duration::from_secs(3600);

/// A certificate, its authority, and a moment in whole seconds.
struct World {
    authority: Authority,
    question: Question,
    now: Timestamp,
}

impl World {
    fn new() -> Self {
        let authority = Authority::new("ours");
        let chain = authority.chain(&["http://ocsp.example/"]);
        let question = Question::of(&chain).expect("a responder").expect("askable");
        let now = Timestamp::from_second(Timestamp::now().as_second()).expect("in range");
        Self { authority, question, now }
    }

    /// Says of the certificate that it is so since an hour ago, and for another one.
    fn single(&self, status: &[u8]) -> Vec<u8> {
        single(&self.question.id, status, self.now - HOUR, Some(self.now + HOUR), &[])
    }

    /// Signed by the authority itself.
    fn signed(&self, singles: &[Vec<u8>]) -> Vec<u8> {
        response(&by_name(&self.authority.certificate()), singles, &self.authority.key, &[])
    }

    /// Signed by somebody who shows a certificate.
    fn delegated(&self, delegate: &Delegate) -> Vec<u8> {
        let shown: &[&[u8]] = &[&delegate.certificate];
        response(&by_name(&delegate.certificate), &[self.single(&good())], &delegate.key, shown)
    }

    fn judge(&self, answer: &[u8]) -> Result<Verdict, Useless> {
        judge(&self.question, answer, self.now)
    }
}

#[test]
fn an_answer_of_the_issuer_is_believed() {
    let world = World::new();
    let expected = Verdict { revoked_at: None, this_update: world.now - HOUR, until: world.now + HOUR };
    assert_eq!(world.judge(&world.signed(&[world.single(&good())])), Ok(expected));
    let by_key = response(
        &by_key(&world.authority.certificate()),
        &[world.single(&good())],
        &world.authority.key,
        &[],
    );
    assert_eq!(world.judge(&by_key), Ok(expected));
    let at = world.now - 3 * HOUR;
    let verdict = world.judge(&world.signed(&[world.single(&revoked(at))]));
    assert_eq!(verdict, Ok(Verdict { revoked_at: Some(at), ..expected }));
    let verdict = world.judge(&world.signed(&[world.single(&unknown())]));
    assert_eq!(verdict, Err(Useless::Unknown));
}

#[test]
fn an_answer_counts_for_its_time() {
    let world = World::new();
    let judged =
        |from, until| world.judge(&world.signed(&[single(&world.question.id, &good(), from, until, &[])]));
    let now = world.now;
    let second = Duration::from_secs(1);
    assert_eq!(judged(now - HOUR, Some(now)), Err(Useless::Late(now)));
    assert!(judged(now - HOUR, Some(now + second)).is_ok());
    // A clock that is a little ahead.
    assert!(judged(now + SKEW, Some(now + HOUR)).is_ok());
    let early = now + SKEW + second;
    assert_eq!(judged(early, Some(now + HOUR)), Err(Useless::Early(early)));
    // Without an end.
    assert_eq!(judged(now, None).expect("believed").until, now + UNSAID);
    assert_eq!(judged(now - UNSAID, None), Err(Useless::Late(now)));
}

#[test]
fn an_answer_is_about_this_certificate_or_of_no_use() {
    let world = World::new();
    let id = &world.question.id;
    let about = |id: &CertId| single(id, &good(), world.now, Some(world.now + HOUR), &[]);
    let other_serial = CertId { serial: vec![7], ..id.clone() };
    let other_name = CertId { issuer_name: [7; 20], ..id.clone() };
    let other_key = CertId { issuer_key: [7; 20], ..id.clone() };
    for other in [&other_serial, &other_name, &other_key] {
        assert_eq!(world.judge(&world.signed(&[about(other)])), Err(Useless::Other));
    }
    assert_eq!(world.judge(&world.signed(&[])), Err(Useless::Other));
    assert!(world.judge(&world.signed(&[about(&other_serial), about(id)])).is_ok(), "one of several");
    let both = [world.single(&good()), world.single(&revoked(world.now))];
    assert_eq!(world.judge(&world.signed(&both)), Err(Useless::Ambiguous));
    let many = vec![about(&other_serial); MAX_ANSWERS + 1];
    assert_eq!(world.judge(&world.signed(&many)), Err(Useless::Malformed(Malformed)));
}

#[test]
fn who_has_a_certificate_for_it_may_answer() {
    let world = World::new();
    let delegate = world.authority.delegate(|_| ());
    let expected = world.now + HOUR;
    assert_eq!(world.judge(&world.delegated(&delegate)).expect("believed").until, expected);
    let signing =
        world.authority.delegate(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    assert!(world.judge(&world.delegated(&signing)).is_ok());
    // No longer than that certificate.
    let end = world.now + Duration::from_secs(60);
    let short = world.authority.delegate(|params| params.not_after = std::time::SystemTime::from(end).into());
    assert_eq!(world.judge(&world.delegated(&short)).expect("believed").until, end);
}

#[test]
fn nobody_else_may_answer() {
    let world = World::new();
    let critical = |oid: &[u64]| {
        let mut extension = CustomExtension::from_oid_content(oid, vec![5, 0]);
        extension.set_criticality(true);
        extension
    };
    let ours = &world.authority;
    let namesake = Authority::new("ours");
    let refused = [
        ("not for this", ours.delegate(|params| params.extended_key_usages.clear())),
        (
            "for other things",
            ours.delegate(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any]),
        ),
        ("not for signing", ours.delegate(|params| params.key_usages = vec![KeyUsagePurpose::CrlSign])),
        ("over", ours.delegate(|params| params.not_after = date_time_ymd(2020, 1, 1))),
        ("not yet", ours.delegate(|params| params.not_before = date_time_ymd(2999, 1, 1))),
        ("with a condition", ours.delegate(|params| params.custom_extensions.push(critical(&[1, 2, 3])))),
        ("of another authority of that name", namesake.delegate(|_| ())),
        ("of another authority", Authority::new("theirs").delegate(|_| ())),
    ];
    for (why, delegate) in &refused {
        assert_eq!(world.judge(&world.delegated(delegate)), Err(Useless::Signature), "{why}");
    }
    let single = &[world.single(&good())];
    let delegate = ours.delegate(|_| ());
    let own = ours.certificate();
    for (why, answer) in [
        ("the namesake", response(&by_name(&own), single, &namesake.key, &[])),
        ("shows nothing", response(&by_name(&delegate.certificate), single, &delegate.key, &[])),
        ("names somebody else", response(&by_name(&own), single, &delegate.key, &[&delegate.certificate])),
        (
            "shows another one's certificate",
            response(&by_name(&delegate.certificate), single, &namesake.key, &[&delegate.certificate]),
        ),
    ] {
        assert_eq!(world.judge(&answer), Err(Useless::Signature), "{why}");
    }
}

#[test]
fn what_must_be_understood_is_not_passed_over() {
    let world = World::new();
    let extension = |critical: &[u8]| {
        let extension = write(
            Tag::Sequence,
            &[&write(Tag::Oid, &[&[0x2a, 3]]), critical, &write(Tag::OctetString, &[b"x"])],
        );
        part(1, true, &[&write(Tag::Sequence, &[&extension])])
    };
    let with = |more: &[u8]| {
        let single = single(&world.question.id, &good(), world.now, Some(world.now + HOUR), more);
        world.judge(&world.signed(&[single]))
    };
    assert!(with(&extension(&[])).is_ok());
    assert_eq!(with(&extension(&write(Tag::Boolean, &[&[0xff]]))), Err(Useless::Critical));
    assert_eq!(with(&write(Tag::Integer, &[&[1]])), Err(Useless::Malformed(Malformed)));
}

#[test]
fn refusals_are_told() {
    let world = World::new();
    for (number, text) in
        [(1, "malformedRequest"), (2, "internalError"), (3, "tryLater"), (6, "unauthorized")]
    {
        let answer = write(Tag::Sequence, &[&write(Tag::Enumerated, &[&[number]])]);
        assert_eq!(world.judge(&answer), Err(Useless::Refused(text)));
        assert_eq!(is_understood(&answer), number != 1, "{text}");
    }
    for number in [0, 4, 7] {
        let answer = write(Tag::Sequence, &[&write(Tag::Enumerated, &[&[number]])]);
        assert_eq!(world.judge(&answer), Err(Useless::Malformed(Malformed)), "{number}");
    }
    assert_eq!(world.judge(b"<html>"), Err(Useless::Malformed(Malformed)));
    assert!(!is_understood(b"<html>") && is_understood(&world.signed(&[])));
}

#[test]
fn no_damaged_answer_is_believed() {
    let world = World::new();
    let answer = world.signed(&[world.single(&good())]);
    assert!(world.judge(&answer).is_ok());
    for end in 0..answer.len() {
        assert!(world.judge(&answer[..end]).is_err(), "cut at {end}");
    }
    for at in 0..answer.len() {
        for bit in 0..8 {
            let mut damaged = answer.clone();
            damaged[at] ^= 1 << bit;
            assert!(world.judge(&damaged).is_err(), "bit {bit} of byte {at}");
        }
    }
    // Those of who answers for somebody else are not all signed; nothing in them may make a panic.
    let answer = world.delegated(&world.authority.delegate(|_| ()));
    for at in 0..answer.len() {
        let mut damaged = answer.clone();
        damaged[at] ^= 0x80;
        let _any = world.judge(&damaged);
    }
    assert!(world.judge(&[&answer[..], &[0]].concat()).is_err());
}
