//! Lists of the REST API, which come in pages.

use http::{HeaderMap, Method, StatusCode, header};
use portcullis_layers::Body;
use serde::de::DeserializeOwned;
use tracing::warn;

use super::{Error, Github, Token, api_request, secret_header, trouble};
use crate::outbound::Answer;

/// With a hundred entries each: more than anybody has. What is beyond gives no rights.
const MAX_PAGES: usize = 10;

/// A list of what belongs to the user.
#[derive(Debug, Clone, Copy)]
pub(super) enum Resource {
    Emails,
    Orgs,
    Teams,
}

impl Resource {
    const fn first(self) -> &'static str {
        match self {
            Self::Emails => "/user/emails?per_page=100",
            Self::Orgs => "/user/orgs?per_page=100",
            Self::Teams => "/user/teams?per_page=100",
        }
    }

    const fn what(self) -> &'static str {
        match self {
            Self::Emails => "the question for the user's addresses",
            Self::Orgs => "the question for the user's organisations",
            Self::Teams => "the question for the user's teams",
        }
    }
}

impl Github {
    /// A whole list; an empty one when the token may not read it.
    pub(super) async fn pages<T: DeserializeOwned>(
        &self,
        token: &Token,
        resource: Resource,
    ) -> Result<Vec<T>, Error> {
        let what = resource.what();
        let mut all = Vec::new();
        let mut path = resource.first().to_owned();
        for _ in 0..MAX_PAGES {
            let answer = self.get(token, &path).await?;
            match answer.status {
                StatusCode::OK => {}
                StatusCode::UNAUTHORIZED => return Err(Error::TokenRejected),
                status => match trouble(&answer) {
                    Some(error) => return Err(error),
                    // How GitHub says that the scope is missing: 404 for addresses, 403 for the others.
                    None if matches!(status, StatusCode::FORBIDDEN | StatusCode::NOT_FOUND) => {
                        return Ok(all);
                    }
                    None => return Err(Error::Unexpected { what, status }),
                },
            }
            let page: Vec<T> = serde_json::from_slice(&answer.body).map_err(|_| Error::Malformed { what })?;
            all.extend(page);
            match next(&answer.headers) {
                Some(next) => path = self.below_api(&next).ok_or(Error::Malformed { what })?,
                None => return Ok(all),
            }
        }
        warn!(
            list = resource.first(),
            pages = MAX_PAGES,
            "a list of GitHub's is too long: the rest is left out"
        );
        Ok(all)
    }

    /// A `GET` with the user's token.
    pub(super) async fn get(&self, token: &Token, path: &str) -> Result<Answer, Error> {
        let mut request = api_request(Method::GET, path, Body::empty());
        let value = secret_header(&format!("Bearer {}", token.expose()), "the user's token")?;
        request.headers_mut().insert(header::AUTHORIZATION, value);
        self.api.send(request).await.map_err(Error::Unreachable)
    }

    /// The path of a link, below that of the API. The host in it does not count: the token goes to
    /// the API that is configured and nowhere else.
    fn below_api(&self, link: &str) -> Option<String> {
        let link: http::Uri = link.parse().ok()?;
        let path = link.path_and_query()?.as_str().strip_prefix(self.api_path.as_str())?;
        path.starts_with('/').then(|| path.to_owned())
    }
}

/// The address of the next page (RFC 8288).
fn next(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(header::LINK).into_iter().filter_map(|value| value.to_str().ok());
    let mut links = values.flat_map(|value| value.split(','));
    links.find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = parameters.split(';').any(|parameter| {
            let (name, value) = parameter.trim().split_once('=').unwrap_or_default();
            name.eq_ignore_ascii_case("rel")
                && value.trim_matches('"').split(' ').any(|rel| rel.eq_ignore_ascii_case("next"))
        });
        is_next.then(|| target.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_that_of_the_header() {
        for (value, expected) in [
            (
                r#"<https://api.example/a?page=2>; rel="next", <https://api.example/a?page=9>; rel="last""#,
                Some("https://api.example/a?page=2"),
            ),
            (
                r#"<https://api.example/a?page=1>; rel="prev", <https://api.example/a?page=3>; rel=next"#,
                Some("https://api.example/a?page=3"),
            ),
            (r#"</a?page=2>; title="x"; REL="last next""#, Some("/a?page=2")),
            (r#"<https://api.example/a?page=9>; rel="last""#, None),
            (r#"https://api.example/a; rel="next""#, None),
            ("<", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::LINK, value.parse().expect("a value"));
            assert_eq!(next(&headers).as_deref(), expected, "{value}");
        }
    }
}
