//! Who may call what: rules for methods, tools, prompts, resources and arguments. Pure.
//!
//! The first rule that is about a call and its caller decides; where none is, the default does. What a client needs to
//! begin and to look around (`initialize`, `ping`, notifications, lists) is allowed unless a rule names its *method*:
//! lists are cut down to what the caller may use, so nothing is given away by that.
//!
//! A rule that allows may ask for scopes in return. Who lacks one is refused, and told which to get.
//!
//! In doubt about an argument ([`Holds::Unclear`]) a rule that denies is about the call, and one that allows is not.

use smol_str::SmolStr;

use super::arguments::{Arguments, Condition, Holds, Unreadable};
use super::message::{Message, Params};
use super::resources::{Reading, decoded, readings};
use crate::context::Principal;
use crate::glob;
use crate::users::Users;

/// What a rule does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Effect {
    /// Lets the call through.
    #[default]
    Allow,
    /// Refuses it.
    Deny,
}

/// Which calls something is about, by patterns in which `*` stands for any characters.
///
/// Without any pattern it is about every call but those that every client needs. With patterns of names it is about
/// calls of the methods that have such names; if `methods` has some, too, only of those.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    /// Methods: `tools/call`, `resources/*`.
    pub methods: Vec<SmolStr>,
    /// Names of tools.
    pub tools: Vec<SmolStr>,
    /// Names of prompts.
    pub prompts: Vec<SmolStr>,
    /// URIs of resources, and templates of such.
    pub resources: Vec<SmolStr>,
}

/// Which callers a rule is about. `None`: it does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Who {
    /// Users.
    pub users: Option<Users>,
    /// Groups, of which one is enough.
    pub groups: Option<Vec<SmolStr>>,
    /// Clients, by patterns of their ids.
    pub clients: Option<Vec<SmolStr>>,
}

/// One rule.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rule {
    /// What it is called.
    pub id: SmolStr,
    /// Which calls it is about.
    pub what: Selector,
    /// Which callers it is about.
    pub who: Who,
    /// Which arguments it is about: all of these hold.
    pub when: Vec<Condition>,
    /// What it does.
    pub effect: Effect,
    /// What the caller needs for it, all of these; for rules that allow.
    pub scopes: Vec<SmolStr>,
}

/// The rules of a host, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rules {
    /// The first one that is about a call decides.
    pub rules: Vec<Rule>,
    /// What happens to the others.
    pub default: Effect,
}

/// What a call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object<'a> {
    /// A tool, by name.
    Tool(&'a str),
    /// A prompt, by name.
    Prompt(&'a str),
    /// A resource, by URI, or a template of such.
    Resource(&'a str),
    /// A task, by id: whoever began it may ask for it.
    Task(&'a str),
    /// Nothing that has a name.
    Nothing,
}

impl<'a> Object<'a> {
    /// The name.
    pub const fn name(&self) -> Option<&'a str> {
        match self {
            Self::Tool(name) | Self::Prompt(name) | Self::Resource(name) | Self::Task(name) => Some(name),
            Self::Nothing => None,
        }
    }

    /// What a message is about. `Err`: the method needs a name and the message has none.
    fn of(method: &str, params: &'a Params<'_>) -> Result<Self, Unnamed> {
        let name = || params.name.as_deref().ok_or(Unnamed("name"));
        let uri = || params.uri.as_deref().ok_or(Unnamed("uri"));
        Ok(match method {
            "tools/call" => Self::Tool(name()?),
            "prompts/get" => Self::Prompt(name()?),
            "resources/read" | "resources/subscribe" | "resources/unsubscribe" => Self::Resource(uri()?),
            "completion/complete" => {
                let reference = params.reference.as_ref().ok_or(Unnamed("ref"))?;
                match (&reference.name, &reference.uri) {
                    (Some(name), None) => Self::Prompt(name),
                    (None, Some(uri)) => Self::Resource(uri),
                    _ => return Err(Unnamed("ref")),
                }
            }
            "tasks/get" | "tasks/result" | "tasks/update" | "tasks/cancel" => {
                Self::Task(params.task.as_deref().ok_or(Unnamed("taskId"))?)
            }
            _ => Self::Nothing,
        })
    }
}

/// A call lacks the parameter that says what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`params.{0}` is missing")]
pub struct Unnamed(pub &'static str);

/// A call as rules see it.
#[derive(Debug)]
pub struct Call<'a> {
    /// The method.
    pub method: &'a str,
    /// What it is about.
    pub object: Object<'a>,
    /// The arguments; `None`: not known yet, because this is an entry of a list.
    pub arguments: Option<Arguments<'a>>,
}

impl<'a> Call<'a> {
    /// The call that a message is.
    ///
    /// # Errors
    ///
    /// When it does not say what it is about.
    pub fn of(message: &'a Message<'_>) -> Result<Self, Unnamed> {
        let object = Object::of(&message.method, &message.params)?;
        let arguments = Some(Arguments::of(message.params.arguments));
        Ok(Self { method: &message.method, object, arguments })
    }

    /// Any call of something that a list has.
    pub const fn listed(object: Object<'a>) -> Self {
        let method = match object {
            Object::Tool(_) => "tools/call",
            Object::Prompt(_) => "prompts/get",
            _ => "resources/read",
        };
        Self { method, object, arguments: None }
    }
}

/// What every client needs before it knows anything, and what gives nothing away.
pub fn is_basic(method: &str) -> bool {
    matches!(
        method,
        "initialize"
            | "ping"
            | "server/discover"
            | "tools/list"
            | "prompts/list"
            | "resources/list"
            | "resources/templates/list"
    ) || method.starts_with("notifications/")
}

/// What is to happen with a call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Decision<'r> {
    /// It goes on.
    Allow(Option<&'r Rule>),
    /// It is refused, whatever scopes the caller gets.
    Deny(Option<&'r Rule>),
    /// It would go on if the caller had the scopes of this rule.
    Scopes(&'r Rule),
}

impl<'r> Decision<'r> {
    /// How far it is from letting a call pass.
    pub(super) const fn strictness(&self) -> u8 {
        match self {
            Self::Allow(_) => 0,
            Self::Scopes(_) => 1,
            Self::Deny(_) => 2,
        }
    }

    /// The rule that decided; `None`: the default.
    pub const fn rule(&self) -> Option<&'r Rule> {
        match self {
            Self::Allow(rule) | Self::Deny(rule) => *rule,
            Self::Scopes(rule) => Some(rule),
        }
    }
}

impl Selector {
    /// Whether it is about this call.
    pub fn covers(&self, method: &str, object: Object<'_>) -> bool {
        let has = |patterns: &[SmolStr], name: &str| patterns.iter().any(|one| glob::matches(one, name));
        let Self { methods, tools, prompts, resources } = self;
        if !methods.is_empty() && !has(methods, method) {
            return false;
        }
        if tools.is_empty() && prompts.is_empty() && resources.is_empty() {
            return !methods.is_empty() || !is_basic(method);
        }
        match object {
            Object::Tool(name) => has(tools, name),
            Object::Prompt(name) => has(prompts, name),
            Object::Resource(uri) => resources.iter().any(|one| glob::matches(&decoded(one), uri)),
            Object::Task(_) | Object::Nothing => false,
        }
    }
}

impl Who {
    fn covers(&self, principal: Option<&Principal>) -> bool {
        let Self { users, groups, clients } = self;
        if users.is_none() && groups.is_none() && clients.is_none() {
            return true;
        }
        let Some(principal) = principal else { return false };
        let is_group = |listed: &SmolStr, own: &SmolStr| {
            // Another issuer may tell groups apart by case.
            if principal.foreign { listed == own } else { listed.eq_ignore_ascii_case(own) }
        };
        users.as_ref().is_none_or(|users| users.contains(principal))
            && groups.as_ref().is_none_or(|groups| {
                principal.groups.iter().any(|own| groups.iter().any(|listed| is_group(listed, own)))
            })
            && clients.as_ref().is_none_or(|clients| {
                let own = principal.client_id.as_deref();
                own.is_some_and(|own| clients.iter().any(|pattern| glob::matches(pattern, own)))
            })
    }
}

impl Rule {
    /// Whether the arguments are such as the rule is about.
    fn takes(&self, arguments: Option<&Arguments<'_>>) -> Result<bool, Unreadable> {
        if self.when.is_empty() {
            return Ok(true);
        }
        // Of an entry of a list: some call of it may be allowed, so nothing is denied for all of them.
        let Some(arguments) = arguments else { return Ok(self.effect == Effect::Allow) };
        let arguments = arguments.read()?;
        Ok(self.when.iter().all(|condition| match condition.holds(arguments) {
            Holds::Yes => true,
            Holds::No => false,
            Holds::Unclear => self.effect == Effect::Deny,
        }))
    }
}

impl Rules {
    /// Decides on a call.
    ///
    /// # Errors
    ///
    /// When a rule asks for arguments that can't be read.
    pub fn decide(&self, call: &Call<'_>, principal: Option<&Principal>) -> Result<Decision<'_>, Unreadable> {
        let object = call.object;
        let Object::Resource(uri) = object else { return self.decide_one(call, object, principal) };
        if self.rules.iter().all(|rule| rule.what.resources.is_empty()) {
            return self.decide_one(call, object, principal);
        }
        // Nobody knows how the server reads it: the strictest decision on any reading is the one.
        let mut strictest = Decision::Allow(None);
        for (index, Reading { uri, whole }) in readings(uri).iter().enumerate() {
            let decision = self.decide_one(call, Object::Resource(uri), principal)?;
            let counts = *whole || decision.rule().is_some();
            if index == 0 || counts && decision.strictness() > strictest.strictness() {
                strictest = decision;
            }
        }
        Ok(strictest)
    }

    fn decide_one(
        &self,
        call: &Call<'_>,
        object: Object<'_>,
        principal: Option<&Principal>,
    ) -> Result<Decision<'_>, Unreadable> {
        for rule in &self.rules {
            if !rule.what.covers(call.method, object)
                || !rule.who.covers(principal)
                || !rule.takes(call.arguments.as_ref())?
            {
                continue;
            }
            let holds = |scope: &SmolStr| principal.is_some_and(|principal| principal.has_scope(scope));
            return Ok(match rule.effect {
                Effect::Deny => Decision::Deny(Some(rule)),
                Effect::Allow if rule.scopes.iter().all(holds) => Decision::Allow(Some(rule)),
                Effect::Allow => Decision::Scopes(rule),
            });
        }
        Ok(match self.default {
            Effect::Deny if !is_basic(call.method) => Decision::Deny(None),
            // It names the tasks of everybody, of tools too that a rule denies; who knows the id of a task has begun it.
            Effect::Allow if call.method == "tasks/list" && !self.is_open() => Decision::Deny(None),
            _ => Decision::Allow(None),
        })
    }

    /// Whether nothing is ever refused: then no list has to be read.
    pub fn is_open(&self) -> bool {
        let harmless = |rule: &Rule| rule.effect == Effect::Allow && rule.scopes.is_empty();
        self.default == Effect::Allow && self.rules.iter().all(harmless)
    }
}

#[cfg(test)]
mod tests {
    use super::super::arguments::{Scalar, Test};
    use super::*;

    fn texts(list: &[&str]) -> Vec<SmolStr> {
        list.iter().map(SmolStr::new).collect()
    }

    fn tools(names: &[&str]) -> Selector {
        Selector { tools: texts(names), ..Selector::default() }
    }

    fn methods(names: &[&str]) -> Selector {
        Selector { methods: texts(names), ..Selector::default() }
    }

    fn rule(id: &str, what: Selector, effect: Effect) -> Rule {
        Rule { id: id.into(), what, effect, ..Rule::default() }
    }

    fn users(list: &[&str]) -> Who {
        Who { users: Some(Users::parse(list).expect("users")), ..Who::default() }
    }

    fn principal(name: &str, scopes: &[&str]) -> Principal {
        Principal {
            subject: "7".into(),
            username: Some(name.into()),
            scopes: texts(scopes),
            groups: texts(&["Staff"]),
            client_id: Some("https://claude.ai/oauth/x".into()),
            ..Principal::default()
        }
    }

    /// The decision in a word, and the rule.
    fn decided(
        rules: &Rules,
        method: &str,
        object: Object<'_>,
        arguments: Option<&str>,
        who: Option<&Principal>,
    ) -> String {
        let call = Call { method, object, arguments: Some(Arguments::of(arguments)) };
        match rules.decide(&call, who) {
            Ok(decision) => {
                let word = match decision {
                    Decision::Allow(_) => "allow",
                    Decision::Deny(_) => "deny",
                    Decision::Scopes(_) => "scopes",
                };
                format!("{word} {}", decision.rule().map_or("default", |rule| &rule.id))
            }
            Err(Unreadable) => "unreadable".to_owned(),
        }
    }

    #[test]
    fn the_first_rule_that_is_about_a_call_decides() {
        let write = Rule {
            scopes: texts(&["mcp:write"]),
            ..rule("write", tools(&["write_*", "delete_*"]), Effect::Allow)
        };
        let tmp = Condition::new("/path", Test::Glob("/tmp/*".into())).expect("a pointer");
        let etc = Condition::new("/path", Test::OneOf(vec![Scalar::Text("/etc/passwd".into())]))
            .expect("a pointer");
        let rules = Rules {
            rules: vec![
                Rule { who: users(&["mallory"]), ..rule("mallory", Selector::default(), Effect::Deny) },
                Rule { who: users(&["root"]), ..rule("root", tools(&["delete_*"]), Effect::Allow) },
                rule("never", tools(&["delete_all"]), Effect::Deny),
                write,
                Rule { when: vec![etc], ..rule("secret", tools(&["read"]), Effect::Deny) },
                Rule { when: vec![tmp], ..rule("tmp", tools(&["read"]), Effect::Allow) },
                rule("prompts", Selector { prompts: texts(&["*"]), ..Selector::default() }, Effect::Allow),
                rule(
                    "files",
                    Selector {
                        methods: texts(&["resources/read"]),
                        resources: texts(&["file://*"]),
                        ..Selector::default()
                    },
                    Effect::Allow,
                ),
                rule("log", methods(&["logging/*"]), Effect::Allow),
                rule("no list", methods(&["resources/list"]), Effect::Deny),
            ],
            default: Effect::Deny,
        };
        let (alice, writer) = (principal("alice", &[]), principal("alice", &["mcp:write"]));
        let (mallory, root) = (principal("mallory", &["mcp:write"]), principal("root", &[]));
        use Object::{Nothing, Prompt, Resource, Task, Tool};
        for (method, object, arguments, who, expected) in [
            ("tools/call", Tool("write_x"), None, Some(&alice), "scopes write"),
            ("tools/call", Tool("write_x"), None, Some(&writer), "allow write"),
            ("tools/call", Tool("write_x"), None, None, "scopes write"),
            ("tools/call", Tool("write_x"), None, Some(&mallory), "deny mallory"),
            ("tools/call", Tool("delete_all"), None, Some(&writer), "deny never"),
            ("tools/call", Tool("delete_all"), None, Some(&root), "allow root"),
            ("tools/call", Tool("WRITE_x"), None, Some(&writer), "deny default"),
            ("tools/call", Tool("read"), Some(r#"{"path":"/tmp/x"}"#), None, "allow tmp"),
            ("tools/call", Tool("read"), Some(r#"{"path":"/home/x"}"#), None, "deny default"),
            ("tools/call", Tool("read"), Some(r#"{"path":"/etc/passwd"}"#), None, "deny secret"),
            // In doubt against the caller, both ways.
            ("tools/call", Tool("read"), Some(r#"{"path":["/etc/passwd"]}"#), None, "deny secret"),
            ("tools/call", Tool("read"), Some(r#"{"path":"/tmp/x","Path":"/y"}"#), None, "deny secret"),
            ("tools/call", Tool("read"), None, None, "deny default"),
            ("tools/call", Tool("read"), Some(r#"{"path":"/tmp/x","path":"/y"}"#), None, "unreadable"),
            ("prompts/get", Prompt("x"), None, None, "allow prompts"),
            ("completion/complete", Prompt("x"), None, None, "allow prompts"),
            ("resources/read", Resource("file:///x"), None, None, "allow files"),
            ("resources/subscribe", Resource("file:///x"), None, None, "deny default"),
            ("logging/setLevel", Nothing, None, None, "allow log"),
            ("tasks/get", Task("1"), None, None, "deny default"),
            ("new/method", Nothing, None, None, "deny default"),
            // What every client needs is not for the default, nor for rules about everything.
            ("initialize", Nothing, None, Some(&mallory), "allow default"),
            ("tools/list", Nothing, None, None, "allow default"),
            ("notifications/cancelled", Nothing, None, None, "allow default"),
            ("resources/list", Nothing, None, None, "deny no list"),
        ] {
            assert_eq!(
                decided(&rules, method, object, arguments, who),
                expected,
                "{method} {object:?} {arguments:?}"
            );
        }
        assert!(!rules.is_open() && Rules::default().is_open());
    }

    #[test]
    fn no_spelling_of_a_resource_is_a_way_around() {
        let about = |pattern: &str| Selector { resources: texts(&[pattern]), ..Selector::default() };
        let deny =
            Rules { rules: vec![rule("etc", about("file:///etc/*"), Effect::Deny)], ..Rules::default() };
        let allow = Rules {
            rules: vec![rule("srv", about("file:///srv/My%20Files/*"), Effect::Allow)],
            default: Effect::Deny,
        };
        for (uri, denied, allowed) in [
            ("file:///etc/passwd", "deny etc", "deny default"),
            ("file:///%65tc/passwd", "deny etc", "deny default"),
            ("file:////etc/passwd", "deny etc", "deny default"),
            ("file:///srv/My%20Files/a", "allow default", "allow srv"),
            ("file:///srv/My Files/a?b=c", "allow default", "allow srv"),
            ("file:///srv/My%20Files/..%2f..%2f..%2fetc%2fpasswd", "deny etc", "deny default"),
            ("file:///srv/My%20Files/../../tmp", "allow default", "deny default"),
        ] {
            let of = |rules| decided(rules, "resources/read", Object::Resource(uri), None, None);
            assert_eq!((of(&deny).as_str(), of(&allow).as_str()), (denied, allowed), "{uri}");
        }
        let exact =
            Rules { rules: vec![rule("one", about("file:///etc/passwd"), Effect::Deny)], ..Rules::default() };
        for uri in ["file:///etc/passwd#x", "file:///etc/passwd?x", "file:///etc/./passwd%23"] {
            assert_eq!(
                decided(&exact, "resources/read", Object::Resource(uri), None, None),
                "deny one",
                "{uri}"
            );
        }
    }

    #[test]
    fn the_list_of_all_tasks_is_for_nobody_whom_no_rule_allows_it_where_some_are_refused() {
        let never = rule("never", tools(&["x"]), Effect::Deny);
        let list = rule("list", methods(&["tasks/list"]), Effect::Allow);
        for (rules, expected) in [
            (vec![], "allow default"),
            (vec![never.clone()], "deny default"),
            (vec![never, list], "allow list"),
        ] {
            let rules = Rules { rules, ..Rules::default() };
            assert_eq!(decided(&rules, "tasks/list", Object::Nothing, None, None), expected);
            assert_eq!(decided(&rules, "tasks/get", Object::Task("1"), None, None), "allow default");
        }
    }

    #[test]
    fn callers_are_told_apart_by_each_list() {
        let alice = principal("alice", &[]);
        let who = |users: Option<&str>, groups: Option<&str>, clients: Option<&str>| Who {
            users: users.map(|one| Users::parse([one]).expect("a user")),
            groups: groups.map(|one| texts(&[one])),
            clients: clients.map(|one| texts(&[one])),
        };
        for (who, covered) in [
            (who(None, None, None), true),
            (who(Some("Alice"), None, None), true),
            (who(Some("*"), None, None), true),
            (who(Some("bob"), None, None), false),
            (who(None, Some("staff"), None), true),
            (who(None, Some("other"), None), false),
            (who(Some("alice"), Some("other"), None), false),
            (who(None, None, Some("https://claude.ai/*")), true),
            (who(None, None, Some("https://claude.ai")), false),
        ] {
            assert_eq!(who.covers(Some(&alice)), covered, "{who:?}");
            assert_eq!(who.covers(None), who == Who::default(), "{who:?}");
        }
        let foreign = Principal { foreign: true, ..principal("alice", &[]) };
        assert!(!who(None, Some("staff"), None).covers(Some(&foreign)), "by case");
        assert!(!Who { groups: Some(Vec::new()), ..Who::default() }.covers(Some(&alice)));
    }

    #[test]
    fn an_entry_of_a_list_is_there_if_some_call_of_it_is_allowed() {
        let condition = Condition::new("/a", Test::Absent(false)).expect("a pointer");
        let with = |effect| Rule { when: vec![condition.clone()], ..rule("r", tools(&["x"]), effect) };
        for (rules, default, listed) in [
            (vec![with(Effect::Allow)], Effect::Deny, true),
            (vec![with(Effect::Deny)], Effect::Allow, true),
            (vec![with(Effect::Deny)], Effect::Deny, false),
            (vec![rule("r", tools(&["x"]), Effect::Deny)], Effect::Allow, false),
        ] {
            let rules = Rules { rules, default };
            let decision = rules.decide(&Call::listed(Object::Tool("x")), None).expect("nothing is read");
            assert_eq!(matches!(decision, Decision::Allow(_)), listed, "{rules:?}");
        }
    }
}
