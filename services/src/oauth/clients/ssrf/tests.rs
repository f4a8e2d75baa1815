use super::*;
use crate::oauth::clients::testing::{Site, answer, http_client};

#[test]
fn only_addresses_of_the_public_internet_pass() {
    for public in [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.1",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "2606:4700::1111",
        "2a00:1450::1",
        "2001:200::1",
        "2001:4860:4860::8888",
        "2003::1",
        "3ffe::1",
    ] {
        assert!(is_public(public.parse().expect(public)), "{public}");
    }
    for special in [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "10.255.255.255",
        "100.64.0.1",
        "100.100.100.200",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.255",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.1",
        "192.0.0.170",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.0.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "64:ff9b::7f00:1",
        "64:ff9b::808:808",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:0:53aa:64c::1",
        "2001:2::1",
        "2001:10::1",
        "2001:20::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:808:808::1",
        "3fff::1",
        "3fff:fff::1",
        "5f00::1",
        "4000::1",
        "fc00::1",
        "fd00::1",
        "fe80::1",
        "febf::1",
        "fec0::1",
        "ff02::1",
        "ffff::1",
    ] {
        assert!(!is_public(special.parse().expect(special)), "{special}");
    }
}

fn guard(exceptions: Exceptions) -> Guard {
    Guard::new(http_client(), None, exceptions)
}

#[test]
fn every_address_of_a_name_has_to_be_public() {
    let addresses = |texts: &[&str]| -> Vec<SocketAddr> {
        texts.iter().map(|text| SocketAddr::new(text.parse().expect("valid"), 443)).collect()
    };
    let host: HostName = "app.example".parse().expect("valid");
    let (strict, lenient) = (
        guard(Exceptions::default()),
        guard(Exceptions { networks: vec!["10.1.0.0/16".parse().expect("valid")], ..Exceptions::default() }),
    );
    let named = guard(Exceptions { hosts: vec![host.clone()], ..Exceptions::default() });
    for (found, by_strict, by_lenient, by_name) in [
        (&["8.8.8.8", "2606:4700::1111"][..], true, true, true),
        (&["8.8.8.8", "10.1.0.1"], false, true, true),
        (&["10.1.0.1", "8.8.8.8"], false, true, true),
        (&["10.2.0.1", "10.1.0.1"], false, false, true),
        (&["8.8.8.8", "::1"], false, false, true),
        (&["::ffff:10.1.0.1"], false, false, true),
        (&[], false, false, false),
    ] {
        let found = addresses(found);
        assert_eq!(strict.judge(&host, found.clone()).is_ok(), by_strict, "{found:?}");
        assert_eq!(lenient.judge(&host, found.clone()).is_ok(), by_lenient, "{found:?}");
        assert_eq!(named.judge(&host, found.clone()).is_ok(), by_name, "{found:?}");
    }
    let other: HostName = "a.app.example".parse().expect("valid");
    assert!(named.judge(&other, addresses(&["10.0.0.1"])).is_err(), "an exception is for one host");
}

#[test]
fn only_plain_https_urls_are_read() {
    for (text, host, port, target) in [
        ("https://app.example/a/b.json", "app.example", 443, "/a/b.json"),
        ("https://App.Example:8443/?x=1", "app.example", 8443, "/?x=1"),
        ("https://app.example?x=1", "app.example", 443, "/?x=1"),
        ("https://app.example", "app.example", 443, "/"),
        ("https://[2606:4700::1]:444/", "[2606:4700::1]", 444, "/"),
        ("https://127.0.0.1/", "127.0.0.1", 443, "/"),
    ] {
        let url: HttpsUrl = text.parse().expect(text);
        assert_eq!((url.as_str(), url.host.as_str(), url.port), (text, host, port));
        assert_eq!(url.target.to_string(), target);
    }
    for bad in [
        "",
        "http://app.example/",
        "HTTPS://app.example/",
        "https:/app.example/",
        "https://",
        "https:///x",
        "https://user@app.example/",
        "https://a:b@app.example/",
        "https://app.example/#",
        "https://app.example/#a",
        "https://app.example:0/",
        "https://app.example:/",
        "https://app.example:+1/",
        "https://app.example:65536/",
        "https://app.example\\@evil/",
        "https://app.example/ x",
        "https://app.example/\u{e4}",
        "https://[::1/",
        "https://::1/",
    ] {
        assert!(bad.parse::<HttpsUrl>().is_err(), "{bad:?}");
    }
    assert!(format!("https://app.example/{}", "a".repeat(MAX_URL)).parse::<HttpsUrl>().is_err());
}

#[test]
fn how_long_a_document_is_good() {
    for (headers, seconds) in [
        (&[("cache-control", "max-age=300")][..], Some(300)),
        (&[("cache-control", "public, Max-Age=\"60\"")], Some(60)),
        (&[("cache-control", "public"), ("cache-control", "max-age=60"), ("age", "20")], Some(40)),
        (&[("cache-control", "max-age=60"), ("age", "100")], Some(0)),
        (&[("cache-control", "max-age=60, no-store")], Some(0)),
        (&[("cache-control", "no-cache")], Some(0)),
        (&[("cache-control", "No-Store, max-age=60")], Some(0)),
        (&[("cache-control", "max-age=soon")], None),
        (&[("cache-control", "max-age=-1")], None),
        (&[("cache-control", "s-maxage=5")], None),
        (&[], None),
    ] {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        assert_eq!(max_age(&map), seconds.map(Duration::from_secs), "{headers:?}");
    }
}

#[test]
fn json_is_told_by_its_type() {
    for (kind, json) in [
        ("application/json", true),
        ("Application/JSON; charset=utf-8", true),
        ("application/jwk-set+json", true),
        ("text/html", false),
        ("text/plain", false),
        ("text/json", false),
        ("application/jsonx", false),
        ("", false),
    ] {
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]);
        assert_eq!(is_json(&headers), json, "{kind}");
    }
    assert!(!is_json(&HeaderMap::new()));
}

async fn fetch(guard: &Guard, url: &str) -> Result<Answer, FetchError> {
    guard.get(&url.parse().expect("a URL"), None).await
}

#[tokio::test]
async fn a_document_comes_from_the_address_that_was_checked() {
    let site = Site::start().await;
    site.says(answer(
        "200 OK",
        "content-type: application/json\r\netag: \"1\"\r\ncache-control: max-age=90\r\n",
        "{}",
    ));
    let guard = site.guard();
    let Answer::Document { body, etag, max_age } =
        fetch(&guard, &site.url("/c.json?v=1")).await.expect("fetched")
    else {
        panic!("nothing was known before");
    };
    assert_eq!((&body[..], max_age), (&b"{}"[..], Some(Duration::from_secs(90))));
    let request = site.requests().remove(0).to_ascii_lowercase();
    assert!(request.starts_with("get /c.json?v=1 http/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("host: localhost:{}\r\n", site.port)), "{request}");
    assert!(!request.contains("authorization") && !request.contains("cookie"), "{request}");

    site.says(answer("304 Not Modified", "", ""));
    let url = site.url("/c.json").parse().expect("a URL");
    let again = guard.get(&url, etag.as_ref()).await.expect("still good");
    assert!(matches!(again, Answer::NotModified { max_age: None }));
    assert!(site.requests()[1].to_ascii_lowercase().contains("if-none-match: \"1\"\r\n"));
    assert!(matches!(guard.get(&url, None).await, Err(FetchError::Status(StatusCode::NOT_MODIFIED))));
}

#[tokio::test]
async fn nothing_on_this_machine_is_reached_without_an_exception() {
    let site = Site::start().await;
    site.says(answer("200 OK", "content-type: application/json\r\n", "{}"));
    let port = Exceptions { ports: vec![site.port], ..Exceptions::default() };
    let guard = site.guard_with(port);
    for host in ["localhost", "127.0.0.1", "[::1]", "0.0.0.0", "[::ffff:127.0.0.1]", "[::]"] {
        let refused = fetch(&guard, &format!("https://{host}:{}/", site.port)).await;
        assert!(matches!(refused, Err(FetchError::NotPublic)), "{host} {refused:?}");
    }
    // Other ways to write an address, which resolvers know: refused, or not even names.
    for host in ["0x7f.0x1", "127.0.0.1.", "0177.0.0.0x1"] {
        let refused = fetch(&guard, &format!("https://{host}:{}/", site.port)).await;
        assert!(matches!(refused, Err(FetchError::NotPublic | FetchError::Resolve(_))), "{host} {refused:?}");
    }
    let refused = fetch(&Guard::new(http_client(), None, Exceptions::default()), &site.url("/")).await;
    assert!(matches!(refused, Err(FetchError::Port(port)) if port == site.port));
    assert_eq!(site.requests(), [""; 0]);
    let named = Exceptions {
        hosts: vec!["localhost".parse().expect("valid")],
        ports: vec![site.port],
        ..Exceptions::default()
    };
    assert!(fetch(&site.guard_with(named), &site.url("/")).await.is_ok());
}

#[tokio::test]
async fn bad_answers_are_refused() {
    let (site, elsewhere) = (Site::start().await, Site::start().await);
    let guard = site.guard();
    let json = "content-type: application/json\r\n";
    let redirect = format!("location: {}\r\n{json}", elsewhere.url("/"));
    let long = " ".repeat(MAX_BODY + 1);
    let chunked = format!(
        "HTTP/1.1 200 OK\r\n{json}transfer-encoding: chunked\r\n\r\n{:x}\r\n{long}\r\n0\r\n\r\n",
        long.len()
    );
    for (bad, told) in [
        (answer("302 Found", &redirect, "{}"), "302"),
        (answer("308 Permanent Redirect", &redirect, "{}"), "308"),
        (answer("404 Not Found", json, "{}"), "404"),
        (answer("204 No Content", json, ""), "204"),
        (answer("206 Partial Content", json, "{}"), "206"),
        (answer("200 OK", "content-type: text/html\r\n", "{}"), "JSON"),
        (answer("200 OK", "", "{}"), "JSON"),
        (answer("200 OK", json, &long), "longer than 65536"),
        (chunked, "longer than 65536"),
        (format!("HTTP/1.1 200 OK\r\n{json}content-length: 9\r\n\r\n{{"), "broke off"),
        ("no http\r\n\r\n".to_owned(), "did not answer"),
    ] {
        site.says(bad);
        let error = fetch(&guard, &site.url("/")).await.expect_err(told).to_string();
        assert!(error.contains(told), "{error} {told}");
    }
    assert_eq!(elsewhere.requests(), [""; 0], "a redirect was followed");
    // A certificate of another authority.
    let wary = Guard::new(
        http_client(),
        Some(Arc::clone(&elsewhere.ca)),
        Exceptions {
            hosts: vec!["localhost".parse().expect("valid")],
            networks: Vec::new(),
            ports: vec![site.port],
        },
    );
    assert!(matches!(fetch(&wary, &site.url("/")).await, Err(FetchError::Call(_))));
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_gets_no_turn_ends() {
    let guard = guard(Exceptions::default());
    let _all = guard.turns.acquire_many(AT_ONCE.try_into().expect("small")).await.expect("open");
    let outcome = fetch(&guard, "https://app.example/").await;
    assert!(matches!(outcome, Err(FetchError::Slow)), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn one_host_does_not_take_all_turns() {
    let guard = guard(Exceptions::default());
    let host = |number: usize| -> HostName { format!("h{number}.example").parse().expect("valid") };
    let slow = host(0);
    let mut held = Vec::new();
    for _ in 0..AT_ONCE_EACH {
        held.push(guard.turn(&slow).await.expect("open"));
    }
    let outcome = fetch(&guard, "https://h0.example/").await;
    assert!(matches!(outcome, Err(FetchError::Slow)), "{outcome:?}");
    let other = (1..).map(host).find(|other| guard.place(other) != guard.place(&slow)).expect("another");
    assert!(tokio::time::timeout(LIMIT, guard.turn(&other)).await.is_ok());
    held.pop();
    assert!(tokio::time::timeout(LIMIT, guard.turn(&slow)).await.is_ok());
}
