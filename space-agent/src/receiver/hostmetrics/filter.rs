//! Which devices, interfaces, mounts and processes are measured.

use perigee_shared::config::Invalid;
use regex_lite::Regex;
use serde::Deserialize;

/// How names are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum MatchType {
    /// A name is one of the list.
    Strict,
    /// An expression of the list is found in a name.
    Regexp,
}

/// Names to look for.
#[derive(Debug, Clone)]
enum Set {
    Strict(Vec<String>),
    Regexp(Vec<Regex>),
}

impl Set {
    fn try_new((list, how): (&[String], MatchType), key: &str) -> Result<Option<Self>, Invalid> {
        if list.is_empty() {
            return Ok(None);
        }
        if how == MatchType::Strict {
            return Ok(Some(Self::Strict(list.to_vec())));
        }
        let compile = |text: &String| {
            let wrong = |e| Invalid::new(key, format!("`{text}` is not a regular expression: {e}"));
            Regex::new(text).map_err(wrong)
        };
        Ok(Some(Self::Regexp(list.iter().map(compile).collect::<Result<_, _>>()?)))
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Strict(names) => names.iter().any(|n| n == name),
            Self::Regexp(expressions) => expressions.iter().any(|e| e.is_match(name)),
        }
    }
}

/// What is included and not excluded; without both, everything.
#[derive(Debug, Clone, Default)]
pub(super) struct Filter {
    include: Option<Set>,
    exclude: Option<Set>,
}

/// A list and how to compare with it.
pub(super) type List<'a> = Option<(&'a [String], MatchType)>;

impl Filter {
    /// A filter of two lists, each with the key under which it stands.
    pub(super) fn try_new(include: (List<'_>, &str), exclude: (List<'_>, &str)) -> Result<Self, Invalid> {
        let set = |(list, key): (List<'_>, &str)| list.map_or(Ok(None), |list| Set::try_new(list, key));
        Ok(Self { include: set(include)?, exclude: set(exclude)? })
    }

    /// Whether what has this name is measured.
    pub(super) fn takes(&self, name: &str) -> bool {
        self.include.as_ref().is_none_or(|set| set.matches(name))
            && !self.exclude.as_ref().is_some_and(|set| set.matches(name))
    }
}
