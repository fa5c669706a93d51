//! From data, such as a file or rows of a database, to rules. Every fault is named by its place.

use std::collections::BTreeMap;
use std::sync::Arc;

use ahash::HashMap;
use serde_json::{Map, Value};
use tollway_core::{Algorithm, ConfigError, Rate, Rates, Timestamp};

use super::access::{Access, AccessList, Entry, parse_time};
use super::paths::Pattern;
use super::plan::{Level, Override, Plan, Quota, ShadowCount, Variant};
use super::subject::{By, Directory};
use super::{Compiled, When, Who};

const RULES: &[&str] = &["deny", "allow", "skip", "overrides", "limits", "ipv6_prefix"];
const QUOTA: &[&str] = &["rate", "algorithm", "schedule"];
const LEVEL: &[&str] = &["rate", "algorithm", "schedule", "name", "by", "tiers"];
const LIMIT: &[&str] =
    &["rate", "algorithm", "schedule", "name", "by", "tiers", "levels", "paths", "enforce", "shadow"];
const OVERRIDE: &[&str] = &["who", "limit", "level", "rate", "algorithm", "schedule", "from", "until"];
const ANY: &str = "*";

/// A value and where it stands.
struct At<'a> {
    place: String,
    value: &'a Value,
}

impl<'a> At<'a> {
    fn wrong(&self, message: impl std::fmt::Display) -> ConfigError {
        let place = if self.place.is_empty() { "rules" } else { &self.place };
        ConfigError::new(format!("{place}: {message}"))
    }

    fn child(&self, name: &str, value: &'a Value) -> At<'a> {
        let dot = if self.place.is_empty() || name.starts_with('[') { "" } else { "." };
        At { place: format!("{}{dot}{name}", self.place), value }
    }

    fn map(&self, what: &str) -> Result<&'a Map<String, Value>, ConfigError> {
        self.value.as_object().ok_or_else(|| self.wrong(format!("expected {what}, found {}", self.value)))
    }

    /// A map that knows these names only.
    fn fields(&self, known: &[&str]) -> Result<&'a Map<String, Value>, ConfigError> {
        let map = self.map("a mapping")?;
        match map.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(self.wrong(format!("{name:?} is not known here{}", hint(name, known)))),
            None => Ok(map),
        }
    }

    /// A field that is there and not null.
    fn get(&self, name: &str) -> Option<At<'a>> {
        self.value.get(name).filter(|value| !value.is_null()).map(|value| self.child(name, value))
    }

    fn list(&self) -> Result<Vec<At<'a>>, ConfigError> {
        let items =
            self.value.as_array().ok_or_else(|| self.wrong(format!("expected a list, found {}", self.value)))?;
        Ok(items.iter().enumerate().map(|(index, value)| self.child(&format!("[{index}]"), value)).collect())
    }

    fn text(&self) -> Result<&'a str, ConfigError> {
        self.value.as_str().ok_or_else(|| self.wrong(format!("expected a text, found {}", self.value)))
    }

    fn read<T>(&self, read: impl FnOnce(&str) -> Result<T, ConfigError>) -> Result<T, ConfigError> {
        read(self.text()?).map_err(|error| self.wrong(error))
    }

    fn time(&self) -> Result<Timestamp, ConfigError> {
        match self.value.as_u64() {
            Some(seconds) => Ok(Timestamp::from_secs(seconds)),
            None => self.read(parse_time),
        }
    }

    fn rates(&self) -> Result<Vec<Rate>, ConfigError> {
        let read = |at: &At<'_>| at.read(|text| Ok(text.parse::<Rates>()?.0));
        if self.value.is_array() {
            let lists = self.list()?.iter().map(read).collect::<Result<Vec<_>, _>>()?;
            return Ok(lists.into_iter().flatten().collect());
        }
        read(self)
    }

    /// A rate by itself, or a mapping that has been checked.
    fn quota(&self) -> Result<Quota, ConfigError> {
        if !self.value.is_object() {
            return Ok(Quota { rates: Some(self.rates()?), algorithm: None, schedule: Vec::new() });
        }
        let rates = self.get("rate").map(|at| at.rates()).transpose()?;
        let algorithm = self.get("algorithm").map(|at| at.read(str::parse::<Algorithm>)).transpose()?;
        let mut schedule = Vec::new();
        for at in self.get("schedule").map(|at| at.list()).transpose()?.unwrap_or_default() {
            at.fields(&["when", "rate"])?;
            let (Some(when), Some(rate)) = (at.get("when"), at.get("rate")) else {
                return Err(at.wrong("needs \"when\" and \"rate\""));
            };
            schedule.push((when.read(str::parse::<When>)?, rate.rates()?));
        }
        Ok(Quota { rates, algorithm, schedule })
    }

    fn variant(&self, suffix: &str) -> Result<Variant, ConfigError> {
        Variant::new(suffix, self.quota()?).map_err(|error| self.wrong(error))
    }

    /// A name that becomes part of a policy's.
    fn name(&self, name: &str) -> Result<(), ConfigError> {
        let legal = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '{' | '}' | '@' | '~');
        if name.is_empty() || name.len() > 120 || !name.chars().all(legal) {
            return Err(self.wrong(format!(
                "{name:?} is no usable name: 1 to 120 visible ASCII characters without quotes, braces, @, ~ and \\"
            )));
        }
        Ok(())
    }

    fn level(&self, limit: &str, first: bool) -> Result<Level, ConfigError> {
        let by = match self.get("by") {
            Some(at) => at.read(By::parse_all)?,
            None if first => Vec::new(),
            None => return Err(self.wrong(format!("needs \"by\": {}", By::NAMES))),
        };
        let joined = || by.iter().map(|by| by.name()).collect::<Vec<_>>().join("+");
        let name = match self.get("name") {
            Some(at) => at.text()?.to_owned(),
            None if by.is_empty() => "client".to_owned(),
            None => joined(),
        };
        self.name(&name)?;
        let base = self.variant("")?;
        if !first && !base.has_rates() {
            return Err(self.wrong("needs a \"rate\""));
        }
        let mut tiers = HashMap::default();
        if let Some(at) = self.get("tiers") {
            for (tier, value) in at.map("tiers by name, such as {\"pro\": \"1000/m\"}")? {
                let at = at.child(tier, value);
                at.name(tier)?;
                if value.is_object() {
                    at.fields(QUOTA)?;
                }
                tiers.insert(tier.as_str().into(), (at.variant(&format!("@{tier}"))?, format!("tier {tier}").into()));
            }
        }
        let policy_name = if first { limit.into() } else { format!("{limit}/{name}").into() };
        Ok(Level { name: name.into(), by, policy_name, base, tiers })
    }

    fn plan(&self, name: &str, counts: &Counts) -> Result<Plan, ConfigError> {
        self.name(name)?;
        if !self.value.is_object() {
            return self.plan_of(vec![self.level(name, true)?], name, counts);
        }
        self.fields(LIMIT)?;
        let mut levels = vec![self.level(name, true)?];
        for at in self.get("levels").map(|at| at.list()).transpose()?.unwrap_or_default() {
            at.fields(LEVEL)?;
            let level = at.level(name, false)?;
            if levels.iter().any(|known: &Level| known.name == level.name) {
                return Err(at.wrong(format!("two levels are named {:?}: give one a \"name\" of its own", level.name)));
            }
            levels.push(level);
        }
        self.plan_of(levels, name, counts)
    }

    fn plan_of(&self, levels: Vec<Level>, name: &str, counts: &Counts) -> Result<Plan, ConfigError> {
        let patterns = match self.get("paths") {
            None => Vec::new(),
            Some(at) => at.list()?.iter().map(|at| at.read(str::parse)).collect::<Result<_, _>>()?,
        };
        if !patterns.is_empty() && (levels[0].by.is_empty() || !levels[0].base.has_rates()) {
            return Err(self.wrong("a limit with \"paths\" stands alone: it needs \"rate\" and \"by\""));
        }
        let shadow = counts.get(name).cloned().unwrap_or_default();
        let name = name.into();
        Ok(Plan { name, patterns, levels, overrides: Directory::default(), enforce: self.share()?, shadow })
    }

    /// Of ten thousand keys, how many a limit binds.
    fn share(&self) -> Result<u16, ConfigError> {
        let shadow = match self.get("shadow") {
            Some(at) => at.value.as_bool().ok_or_else(|| at.wrong("expected true or false"))?,
            None => false,
        };
        match self.get("enforce") {
            Some(at) if shadow => Err(at.wrong("\"shadow\" already says 0: keep one of them")),
            Some(at) => match at.value.as_f64() {
                Some(percent) if (0.0..=100.0).contains(&percent) => Ok((percent * 100.0).round() as u16),
                _ => Err(at.wrong(format!("expected a percentage from 0 to 100, found {}", at.value))),
            },
            None => Ok(if shadow { 0 } else { 10_000 }),
        }
    }

    fn entries(&self, access: Access, into: &mut Vec<Entry>) -> Result<(), ConfigError> {
        for at in self.list()? {
            let entry = at.read(|text| Entry::parse(text, access))?;
            if entry.access != access {
                return Err(at.wrong(format!("says {} in a list of {}", entry.access.name(), access.name())));
            }
            into.push(entry);
        }
        Ok(())
    }
}

/// What shadows have counted, by limit.
pub(super) type Counts = BTreeMap<Box<str>, Arc<ShadowCount>>;

/// Reads rules; nothing is put in place.
pub(super) fn read(text: &str, counts: &Counts) -> Result<Compiled, ConfigError> {
    let value: Value = serde_json::from_str(text).map_err(|error| ConfigError::new(format!("rules: {error}")))?;
    let at = At { place: String::new(), value: &value };
    at.fields(RULES)?;
    let mut entries = Vec::new();
    for (name, access) in [("allow", Access::Allow), ("deny", Access::Deny)] {
        if let Some(at) = at.get(name) {
            at.entries(access, &mut entries)?;
        }
    }
    let mut skips: Vec<Pattern> = Vec::new();
    for at in at.get("skip").map(|at| at.list()).transpose()?.unwrap_or_default() {
        skips.push(at.read(str::parse)?);
    }
    let mut plans = BTreeMap::new();
    if let Some(at) = at.get("limits") {
        for (name, value) in at.map("limits by name, such as {\"search\": \"100/m\"}")? {
            plans.insert(Box::<str>::from(name.as_str()), at.child(name, value).plan(name, counts)?);
        }
    }
    let everywhere = read_overrides(&at, &mut plans)?;
    let ipv6_prefix = match at.get("ipv6_prefix") {
        None => 64,
        Some(at) => match at.value.as_u64() {
            Some(bits @ 1..=128) => bits as u8,
            _ => return Err(at.wrong(format!("an IPv6 prefix has 1 to 128 bits, not {}", at.value))),
        },
    };
    let access = (!entries.is_empty()).then(|| AccessList::new(entries, Access::Deny)).transpose()?;
    Ok(Compiled::new(access, skips, plans.into_values().collect(), everywhere, ipv6_prefix))
}

/// Hangs overrides into the plans they name; answers those for every limit.
fn read_overrides(
    at: &At<'_>,
    plans: &mut BTreeMap<Box<str>, Plan>,
) -> Result<Option<Directory<Override>>, ConfigError> {
    let mut by_limit: HashMap<String, Vec<(Who, Override)>> = HashMap::default();
    // Thousands of overrides come to a few rates.
    let mut variants: HashMap<String, Arc<Variant>> = HashMap::default();
    for at in at.get("overrides").map(|at| at.list()).transpose()?.unwrap_or_default() {
        at.fields(OVERRIDE)?;
        let who: Who = at.get("who").ok_or_else(|| at.wrong("needs \"who\""))?.read(str::parse)?;
        let limit = at.get("limit").map(|at| at.text()).transpose()?.unwrap_or(ANY);
        let level = at.get("level").map(|at| at.text()).transpose()?;
        let rate = at.get("rate").ok_or_else(|| at.wrong("needs a \"rate\", or \"unlimited\""))?;
        let variant = if rate.value.as_str() == Some("unlimited") {
            None
        } else {
            let spelled = format!("{} {:?} {:?}", rate.value, at.value.get("algorithm"), at.value.get("schedule"));
            let known = variants.get(&spelled).cloned();
            let made = known.map_or_else(|| at.variant("@override").map(Arc::new), Ok)?;
            Some(Arc::clone(variants.entry(spelled).or_insert(made)))
        };
        let time = |name| at.get(name).map(|at| at.time()).transpose();
        let made = Override {
            cause: format!("override {who}").into(),
            by: who.by(),
            level: level.map(Into::into),
            variant,
            from: time("from")?,
            until: time("until")?,
        };
        if limit != ANY && !plans.contains_key(limit) {
            // Nothing else is said of that limit.
            let bare = At { place: at.place.clone(), value: &Value::Object(Map::new()) }.plan(limit, &Counts::new())?;
            plans.insert(limit.into(), bare);
        }
        if let (Some(level), Some(plan)) = (level, plans.get(limit))
            && !plan.levels.iter().any(|known| *known.name == *level)
        {
            return Err(at.wrong(format!("limit {limit:?} has no level {level:?}")));
        }
        by_limit.entry(limit.to_owned()).or_default().push((who, made));
    }
    let mut everywhere = None;
    for (limit, overrides) in by_limit {
        let directory = Directory::new(overrides);
        match plans.get_mut(limit.as_str()) {
            Some(plan) if limit != ANY => plan.overrides = directory,
            _ => everywhere = Some(directory),
        }
    }
    Ok(everywhere)
}

fn hint(name: &str, known: &[&str]) -> String {
    let near = known.iter().map(|known| (distance(name, known), known)).min().filter(|(distance, _)| *distance <= 2);
    near.map_or_else(|| format!(": use one of {}", known.join(", ")), |(_, known)| format!(": did you mean {known:?}?"))
}

/// How many letters differ.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut before = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in other.bytes().enumerate() {
            let next = (before + usize::from(a != b)).min(row[j] + 1).min(row[j + 1] + 1);
            before = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row[other.len()]
}
