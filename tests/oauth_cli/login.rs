//! Logging in and out.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::site::{Site, err};
use crate::support::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn the_url_of_a_gateway_is_enough_to_log_in_with_a_browser() {
    let site = Site::start().await;
    // A browser that notes where it is sent.
    let (browser, opened) = (site.home.path().join("browser"), site.home.path().join("opened"));
    std::fs::write(
        &browser,
        format!("#!/bin/sh\nprintf %s \"$1\" > {0}.new && mv {0}.new {0}\n", opened.display()),
    )
    .unwrap();
    std::fs::set_permissions(&browser, PermissionsExt::from_mode(0o755)).unwrap();
    let url = site.url();
    let args = ["--base-url", &url, "--cacert", site.authority.to_str().unwrap(), "login"];
    let mut command = site.command(&args);
    let child = command.env("BROWSER", &browser).stdout(std::process::Stdio::piped());
    let child = child.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let sent = eventually("the browser is opened", || async { std::fs::read_to_string(&opened).ok() }).await;
    assert!(
        sent.starts_with(&format!("https://auth.localhost:{}/authorize?", site.daemon.https.port())),
        "{sent}"
    );

    // Whoever else knows the port, but not the state, changes nothing.
    let port = sent.split("redirect_uri=http%3A%2F%2F127.0.0.1%3A").nth(1).unwrap();
    let port = port.split('%').next().unwrap();
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    let stranger = crate::support::client::get(&format!("127.0.0.1:{port}"), "/callback?code=x&state=y");
    assert_eq!(crate::support::client::plain(address, stranger).await.status, 400);

    let page = site.sign_in(&sent, "alice").await;
    assert!(page.contains("You can close this window"), "{page}");
    let done = tokio::task::block_in_place(|| child.wait_with_output()).unwrap();
    assert!(done.status.success(), "{}", err(&done));
    assert!(err(&done).contains(&sent), "the URL is printed in any case: {}", err(&done));
    let said: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(said["status"], "logged in");
    assert_eq!(said["resource"], json!(url));
    assert_eq!(said["renews_itself"], true, "{said}");

    let file = site.home.path().join(".config/portcullis/profiles.yml");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let token = site.kept_value("access_token").unwrap();
    assert!(!String::from_utf8_lossy(&done.stdout).contains(&token) && !err(&done).contains(&token));

    // From here on the profile knows everything.
    site.good(&["proxy", "create", "new.example", "http://10.0.0.5"]);
    let status = site.good(&["oauth", "status"]);
    assert_eq!(
        (&status["logged_in_by"], &status["subject"], &status["client_id"], &status["gateway_agrees"]),
        (&json!("login"), &json!("1"), &json!("portcullis-cli"), &json!(true)),
        "{status}"
    );
    assert_eq!(status["username"], "alice", "{status}");
    assert_eq!(status["gateway_says"]["username"], "alice", "{status}");
    assert!(status["scopes"].as_array().unwrap().contains(&json!("admin")), "{status}");
    assert_eq!(status["issuer"], json!(format!("https://auth.localhost:{}", site.daemon.https.port())));
    assert!(!status.to_string().contains(&token), "no token is shown");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_ends_the_login_at_the_gateway() {
    let site = Site::start().await;
    site.logged_in().await;
    let kept = site.kept();
    let out = site.good(&["logout"]);
    assert_eq!(out, json!({ "profile": "default", "status": "logged out", "revoked": true }));
    assert!(!site.kept().contains("token"), "{}", site.kept());
    let refused = site.run(&["proxy", "list"]);
    assert_eq!(refused.status.code(), Some(3), "{}", err(&refused));
    assert!(err(&refused).contains("portcullis login"), "{}", err(&refused));

    // A copy of the file is worth nothing any longer: neither its access token nor its refresh token.
    site.keep(&kept);
    let refused = eventually("the access token is refused", || async {
        let output = site.run(&["proxy", "list"]);
        (output.status.code() == Some(3)).then_some(output)
    })
    .await;
    assert!(err(&refused).contains("(401)"), "{}", err(&refused));
    let status = site.run(&["oauth", "status"]);
    let said: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((status.status.code(), &said["gateway_agrees"]), (Some(3), &json!(false)), "{said}");
    let expires = site.kept_value("expires_at").unwrap();
    site.keep(&kept.replace(&expires, "2020-01-01T00:00:00Z"));
    let ended = site.run(&["proxy", "list"]);
    assert_eq!(ended.status.code(), Some(3), "{}", err(&ended));
    assert!(err(&ended).contains("the login has ended: invalid_grant"), "{}", err(&ended));
    assert!(!site.kept().contains("refresh_token"), "it is forgotten: {}", site.kept());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_works_when_the_gateway_is_away() {
    let mut site = Site::start().await;
    site.logged_in().await;
    site.daemon.signal("TERM");
    site.daemon.ended();
    let out = site.run(&["logout"]);
    assert_eq!(out.status.code(), Some(0), "{}", err(&out));
    assert!(err(&out).contains("could not be revoked"), "{}", err(&out));
    let said: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(said["revoked"], false);
    assert!(!site.kept().contains("token"), "{}", site.kept());
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_renew_themselves_and_commands_at_once_share_one() {
    // Shorter than the margin: every command renews first.
    let site = Site::with(|command| {
        command.env("OAUTH_ACCESS_TOKEN_LIFETIME", "50");
    })
    .await;
    site.logged_in().await;
    let first = (site.kept_value("access_token").unwrap(), site.kept_value("refresh_token").unwrap());
    let running: Vec<_> = (0..4)
        .map(|_| {
            let mut command = site.command(&["proxy", "list"]);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in running {
        let output = tokio::task::block_in_place(|| child.wait_with_output()).unwrap();
        assert!(output.status.success(), "{}", err(&output));
    }
    let next = (site.kept_value("access_token").unwrap(), site.kept_value("refresh_token").unwrap());
    assert!(first.0 != next.0 && first.1 != next.1, "both were replaced");
    assert_eq!(site.good(&["oauth", "status"])["gateway_agrees"], true, "and the login lives on");

    // A token that is still good is used when the gateway can't renew it.
    let endpoint = site.kept_value("token_endpoint").unwrap();
    site.keep(&site.kept().replace(&endpoint, "https://127.0.0.1:1/token"));
    site.good(&["proxy", "list"]);
}

/// The predecessor's command line was no client that its server knew (catalogue 14.2, number 35): its token always
/// looked as if it had ended, and each command refreshed it.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_is_a_client_that_is_known_and_keeps_its_token_while_it_is_good() {
    let site = Site::start().await;
    site.logged_in().await;
    let kept = || ["access_token", "refresh_token"].map(|name| site.kept_value(name).unwrap());
    let first = kept();
    for _ in 0..3 {
        site.good(&["proxy", "list"]);
        assert_eq!(site.good(&["oauth", "status"])["gateway_agrees"], true, "the token is what it seems");
    }
    assert!(first == kept(), "no command has refreshed it");
    let client = site.good(&["oauth", "client", "show", "portcullis-cli"]);
    assert_eq!(
        (&client["first_party"], &client["metadata"]["token_endpoint_auth_method"]),
        (&json!(true), &json!("none"))
    );
    let grants = site.good(&["oauth", "client", "tokens", "portcullis-cli"]);
    assert!(!grants.to_string().contains(&first[0]), "what is listed is not the token");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_on_no_list_is_not_logged_in() {
    let site = Site::start().await;
    let login = site.log_in(&["--no-browser"]);
    let url = login.url("/authorize?").await;
    let page = site.sign_in(&url, "bob").await;
    assert!(page.contains("The login failed"), "{page}");
    let done = login.ended().await;
    assert_eq!(done.status.code(), Some(1));
    assert!(err(&done).contains("access_denied"), "{}", err(&done));
    assert!(!site.home.path().join(".config/portcullis/profiles.yml").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_entered_where_there_is_no_browser() {
    let site = Site::start().await;
    let login = site.log_in(&[]);
    let url = login.url("with a browser anywhere: ").await;
    let code = login.line("and enter the code: ").await;
    let code = code.rsplit(' ').next().unwrap();
    crate::site::enter(&site, &url, code, "alice").await;
    let done = login.ended().await;
    assert!(done.status.success(), "{}", err(&done));
    assert_eq!(site.good(&["oauth", "status"])["username"], "alice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_needs_a_gateway_that_names_its_server() {
    let site = Site::start().await;
    let ca = site.authority.to_str().unwrap();
    let (plain, issuer) = (
        format!("http://localhost:{}", site.daemon.http.port()),
        format!("https://auth.localhost:{}", site.daemon.https.port()),
    );
    for (url, said) in [
        (plain.as_str(), "does not ask for a login"),
        (&issuer, "does not ask for a login"),
        ("https://127.0.0.1:1", "can't connect"),
    ] {
        let output = site.run(&["--base-url", url, "--cacert", ca, "login", "--no-browser"]);
        assert_eq!(output.status.code(), Some(1), "{url}");
        assert!(err(&output).contains(said), "{url}: {}", err(&output));
    }
    let socket = site.daemon.cli(&["login", "--no-browser"]);
    assert_eq!(socket.status.code(), Some(2));
    assert!(err(&socket).contains("over the admin socket everybody is admin"), "{}", err(&socket));
    let status = site.daemon.run(&["oauth", "status"]);
    assert_eq!((&status["logged_in_by"], &status["gateway_agrees"]), (&json!("admin socket"), &json!(true)));
    let nobody = site.run(&["--base-url", &site.url(), "--cacert", ca, "oauth", "status"]);
    let said: serde_json::Value = serde_json::from_slice(&nobody.stdout).unwrap();
    assert_eq!((nobody.status.code(), &said["logged_in_by"]), (Some(3), &json!("nobody")));
}
