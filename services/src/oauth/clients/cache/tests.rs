use super::*;
use crate::oauth::clients::testing::{Site, answer, until};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).expect("valid")
}

fn cache(site: &Site, capacity: usize) -> Arc<HttpCache<String, String>> {
    Arc::new(plain(site, capacity))
}

fn backing_off(site: &Site) -> HttpCache<String, String> {
    plain(site, 2).backing_off(Duration::from_secs(10))
}

fn plain(site: &Site, capacity: usize) -> HttpCache<String, String> {
    HttpCache::new(Arc::new(site.guard()), capacity, |_, body| {
        let text = String::from_utf8_lossy(body).into_owned();
        if text == "bad" { Err("is bad".to_owned()) } else { Ok(text) }
    })
}

fn says(site: &Site, headers: &str, body: &str) {
    site.says(answer("200 OK", &format!("content-type: application/json\r\n{headers}"), body));
}

fn url(site: &Site, path: &str) -> HttpsUrl {
    site.url(path).parse().expect("a URL")
}

#[tokio::test]
async fn a_document_is_fresh_as_long_as_its_host_says_within_bounds() {
    const DAY: i64 = 24 * 60 * 60;
    for (headers, seconds) in [
        ("cache-control: max-age=300\r\n", 300),
        ("cache-control: max-age=5\r\n", 60),
        ("cache-control: no-store\r\n", 60),
        ("cache-control: max-age=99999999\r\n", DAY),
        ("", 600),
    ] {
        let site = Site::start().await;
        let (cache, url) = (cache(&site, 2), url(&site, "/"));
        says(&site, headers, "one");
        assert_eq!(*cache.get(&url, at(0)).await.expect("fetched"), "one");
        says(&site, headers, "two");
        assert_eq!(*cache.get(&url, at(seconds - 1)).await.expect("kept"), "one", "{headers}");
        assert_eq!(*cache.get(&url, at(seconds)).await.expect("fetched"), "two", "{headers}");
        assert_eq!(site.requests().len(), 2);
    }
}

#[tokio::test]
async fn an_unchanged_document_is_not_sent_again() {
    let site = Site::start().await;
    let (cache, url) = (cache(&site, 2), url(&site, "/"));
    says(&site, "etag: \"a\"\r\ncache-control: max-age=60\r\n", "one");
    let first = cache.get(&url, at(0)).await.expect("fetched");
    site.says(answer("304 Not Modified", "cache-control: max-age=120\r\n", ""));
    let second = cache.get(&url, at(60)).await.expect("still good");
    assert!(Arc::ptr_eq(&first, &second));
    assert!(site.requests()[1].to_ascii_lowercase().contains("if-none-match: \"a\""));
    cache.get(&url, at(179)).await.expect("still good");
    assert_eq!(site.requests().len(), 2);
}

#[tokio::test]
async fn neither_failures_nor_what_is_invalid_is_kept() {
    let site = Site::start().await;
    let (cache, url) = (cache(&site, 2), url(&site, "/"));
    site.says(answer("500 Internal Server Error", "", ""));
    assert!(cache.get(&url, at(0)).await.is_err());
    says(&site, "", "bad");
    assert_eq!(cache.get(&url, at(0)).await.expect_err("invalid").to_string(), "is bad");
    says(&site, "", "one");
    assert_eq!(*cache.get(&url, at(0)).await.expect("it was mended"), "one");
    assert_eq!(site.requests().len(), 3);

    says(&site, "", "bad");
    assert_eq!(*cache.get_newer(&url, at(1), at(2)).await.expect("the fresh one"), "one");
    assert_eq!(cache.get(&url, at(700)).await.expect_err("nothing is fresh").to_string(), "is bad");
}

#[tokio::test]
async fn why_nothing_was_fetched_is_told_to_logs_only() {
    let site = Site::start().await;
    let (cache, url) = (cache(&site, 2), url(&site, "/"));
    site.says(answer("403 Forbidden", "", ""));
    let error = cache.get(&url, at(0)).await.expect_err("refused");
    assert_eq!(error.to_string(), "it can't be fetched");
    let source = std::error::Error::source(&*error).expect("a reason").to_string();
    assert_eq!(source, "the host answered 403 instead of 200");
}

#[tokio::test]
async fn a_failure_is_that_of_all_who_waited_for_it() {
    let site = Site::start().await;
    let (cache, url) = (cache(&site, 2), url(&site, "/"));
    site.says(answer("500 Internal Server Error", "", ""));
    site.gate.forget_permits(1000);
    let ask = || {
        let (cache, url) = (Arc::clone(&cache), url.clone());
        tokio::spawn(async move { cache.get(&url, at(0)).await.is_ok() })
    };
    let mut asking = vec![ask()];
    until("the fetch has begun", || !site.requests().is_empty()).await;
    asking.extend((0..20).map(|_| ask()));
    until("all wait", || cache.waiting(&url) == 21).await;
    site.gate.add_permits(1000);
    for task in asking {
        assert!(!task.await.expect("no panic"));
    }
    assert_eq!(site.requests().len(), 1);
    assert!(cache.get(&url, at(0)).await.is_err());
    assert_eq!(site.requests().len(), 2, "who comes later has another");
}

#[tokio::test]
async fn with_a_back_off_failures_are_kept_for_a_moment_and_hide_nothing_fresh() {
    let site = Site::start().await;
    let (cache, url) = (backing_off(&site), url(&site, "/"));
    site.says(answer("500 Internal Server Error", "", ""));
    assert!(cache.get(&url, at(0)).await.is_err());
    says(&site, "", "one");
    assert!(cache.get(&url, at(9)).await.is_err(), "not tried again yet");
    assert_eq!(site.requests().len(), 1);
    assert_eq!(*cache.get(&url, at(10)).await.expect("tried again"), "one");

    says(&site, "", "bad");
    assert_eq!(*cache.get_newer(&url, at(11), at(20)).await.expect("the fresh one"), "one");
    assert_eq!(*cache.get_newer(&url, at(11), at(21)).await.expect("the fresh one"), "one");
    assert_eq!(site.requests().len(), 3, "the second was not tried");
    let error = cache.get(&url, at(700)).await.expect_err("nothing is fresh").to_string();
    assert_eq!(error, "is bad");
    says(&site, "", "two");
    assert_eq!(*cache.get(&url, at(710)).await.expect("good again"), "two");
}

#[tokio::test]
async fn many_who_ask_cause_one_fetch() {
    let site = Site::start().await;
    let (cache, url) = (cache(&site, 2), url(&site, "/"));
    says(&site, "", "one");
    site.gate.forget_permits(1000);
    let asking: Vec<_> = (0..20)
        .map(|_| {
            let (cache, url) = (Arc::clone(&cache), url.clone());
            tokio::spawn(async move { cache.get(&url, at(0)).await.map(|one| one.as_str().to_owned()).ok() })
        })
        .collect();
    until("the fetch has begun", || !site.requests().is_empty()).await;
    site.gate.add_permits(1000);
    for task in asking {
        assert_eq!(task.await.expect("no panic").as_deref(), Some("one"));
    }
    assert_eq!(site.requests().len(), 1);
}

#[tokio::test]
async fn places_are_bounded_and_failures_go_first() {
    let site = Site::start().await;
    let cache = cache(&site, 3);
    let get = async |path: &str, now: i64| cache.get(&url(&site, path), at(now)).await.is_ok();
    says(&site, "", "one");
    assert!(get("/a", 0).await && get("/b", 1).await);
    site.says(answer("404 Not Found", "", ""));
    assert!(!get("/bad", 2).await && !get("/worse", 3).await);
    assert_eq!((cache.len(), site.requests().len()), (3, 4));
    assert!(get("/a", 4).await && get("/b", 5).await, "still kept");
    assert_eq!(site.requests().len(), 4);
    says(&site, "", "one");
    assert!(get("/c", 6).await && get("/d", 7).await);
    assert_eq!((cache.len(), site.requests().len()), (3, 6));
    assert!(get("/b", 8).await && get("/a", 9).await);
    assert_eq!(site.requests().len(), 7, "the one that was used longest ago had gone");

    site.gate.forget_permits(1000);
    let busy: Vec<_> = ["/x", "/y", "/z"]
        .into_iter()
        .map(|path| {
            let (cache, url) = (Arc::clone(&cache), url(&site, path));
            tokio::spawn(async move { cache.get(&url, at(10)).await.is_ok() })
        })
        .collect();
    until("all places are taken", || site.requests().len() == 10).await;
    let refused = cache.get(&url(&site, "/more"), at(10)).await;
    assert!(matches!(refused.as_ref().map_err(|error| &**error), Err(CacheError::Busy)));
    site.gate.add_permits(1000);
    for task in busy {
        assert!(task.await.expect("no panic"));
    }
}

#[tokio::test]
async fn it_is_told_whether_a_fetch_is_due() {
    let site = Site::start().await;
    let (cache, url) = (cache(&site, 2), url(&site, "/"));
    says(&site, "cache-control: max-age=300\r\n", "one");
    assert!(!cache.is_known(&url, at(0)) && cache.len() == 0, "asking takes no place");
    cache.get(&url, at(0)).await.expect("fetched");
    assert!(cache.is_known(&url, at(299)) && !cache.is_known(&url, at(300)));
    says(&site, "", "bad");
    cache.get(&url, at(300)).await.expect_err("bad");
    assert!(!cache.is_known(&url, at(300)), "a failure is no knowledge");
    site.gate.forget_permits(1000);
    let fetching = tokio::spawn({
        let (cache, url) = (Arc::clone(&cache), url.clone());
        async move { cache.get(&url, at(400)).await.map(drop) }
    });
    until("a fetch", || site.requests().len() == 3).await;
    assert!(cache.is_known(&url, at(400)), "who comes now waits for that fetch");
    site.gate.add_permits(1);
    fetching.await.expect("no panic").expect_err("bad");
}
