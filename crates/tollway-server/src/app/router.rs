//! Which route answers a request: one radix tree for each method, conflicts refused when
//! the router is built, and the answers that HTTP asks for when no route fits.

use std::borrow::Cow;
use std::fmt;

use http::{HeaderValue, Method};
use smallvec::SmallVec;

/// A route that cannot be added. The message names the route, the reason and, for a
/// conflict, the other route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteError {
    message: String,
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for RouteError {}

/// One registered route.
#[derive(Debug)]
struct Entry<T> {
    path: String,
    name: String,
    params: Vec<String>,
    value: T,
}

/// The tree of one method: paths to indices into the router's entries.
#[derive(Debug)]
struct Table {
    method: Method,
    tree: matchit::Router<usize>,
    members: Vec<usize>,
}

/// Routes by method and path. Paths hold `{name}` for one segment and `{*name}` or
/// `{name:path}` for the rest of the path; `{{` and `}}` are literal braces.
///
/// A look-up costs one descent of a radix tree (about 30 ns) and allocates only for a path
/// with percent escapes, or with more than four parameters.
#[derive(Debug)]
pub struct Router<T> {
    tables: Vec<Table>,
    entries: Vec<Entry<T>>,
}

/// What [`Router::find`] found.
#[derive(Debug)]
pub enum Found<'r, 'p, T> {
    /// A route answers.
    Route(Matched<'r, 'p, T>),
    /// The path exists; the method is OPTIONS and no route was given for it. Answer 204
    /// with this `Allow`.
    Options(HeaderValue),
    /// The path exists for other methods only. Answer 405 with this `Allow`.
    MethodNotAllowed(HeaderValue),
    /// No route has this path. Answer 404.
    NotFound,
}

/// The route that answers, and the pieces of the path that its parameters took.
#[derive(Debug)]
pub struct Matched<'r, 'p, T> {
    entry: &'r Entry<T>,
    /// The parameters in the order of the route's path.
    pub params: PathParams<'p>,
}

impl<'r, T> Matched<'r, '_, T> {
    /// The value the route was added with.
    pub fn value(&self) -> &'r T {
        &self.entry.value
    }

    /// The name the route was added with.
    pub fn name(&self) -> &'r str {
        &self.entry.name
    }

    /// The path the route was added with, for example `/items/{item_id}`.
    pub fn path(&self) -> &'r str {
        &self.entry.path
    }

    /// The names of the parameters, in the order of [`Matched::params`].
    pub fn names(&self) -> &'r [String] {
        &self.entry.params
    }
}

/// The raw (still percent-encoded) pieces of one path, by position.
#[derive(Clone, Debug)]
pub struct PathParams<'p> {
    path: Cow<'p, str>,
    ranges: SmallVec<[(u32, u32); 4]>,
}

impl PathParams<'_> {
    /// The parameters of a route without any.
    pub fn empty() -> PathParams<'static> {
        PathParams { path: Cow::Borrowed(""), ranges: SmallVec::new() }
    }

    /// The raw text of the parameter at `index`.
    pub fn get(&self, index: usize) -> Option<&str> {
        let &(start, end) = self.ranges.get(index)?;
        self.path.get(start as usize..end as usize)
    }

    /// How many parameters there are.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

impl<T> Default for Router<T> {
    fn default() -> Self {
        Router { tables: Vec::new(), entries: Vec::new() }
    }
}

impl<T> Router<T> {
    /// A router without routes.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many routes there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no routes.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The values of all routes, in the order they were added.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|entry| &entry.value)
    }

    /// Adds a route. `name` is what messages call it, for example the handler's dotted name.
    ///
    /// # Errors
    /// A path that does not begin with `/`, that is malformed, or that could match the same
    /// requests as an earlier route of the same method.
    pub fn insert(&mut self, method: Method, path: &str, name: &str, value: T) -> Result<(), RouteError> {
        let refuse = |why: String| RouteError { message: format!("route {method} {path} ({name}) {why}") };
        if !path.starts_with('/') {
            return Err(refuse("must begin with /: write /".to_owned() + path));
        }
        let pattern = parse_pattern(path).map_err(&refuse)?;
        let index = self.entries.len();
        let position = match self.tables.iter().position(|t| t.method == method) {
            Some(position) => position,
            None => {
                self.tables.push(Table { method: method.clone(), tree: matchit::Router::new(), members: Vec::new() });
                self.tables.len() - 1
            }
        };
        let table = &mut self.tables[position];
        if let Err(error) = table.tree.insert(pattern.tree.clone(), index) {
            let rival = rival(&self.entries, &table.members, &pattern.tree);
            return Err(refuse(insert_reason(&error, rival)));
        }
        table.members.push(index);
        self.entries.push(Entry { path: path.to_owned(), name: name.to_owned(), params: pattern.names, value });
        Ok(())
    }

    /// Finds the route for a request. `path` is the raw path of the request target, without
    /// the query. HEAD falls back to the GET route; OPTIONS is answered from what exists.
    pub fn find<'p>(&self, method: &Method, path: &'p str) -> Found<'_, 'p, T> {
        let path = normalize(path);
        if let Some(hit) = self.lookup(method, &path) {
            return self.matched(hit, path);
        }
        if method == Method::HEAD
            && let Some(hit) = self.lookup(&Method::GET, &path)
        {
            return self.matched(hit, path);
        }
        match self.allow(method, &path) {
            None => Found::NotFound,
            Some(allow) if method == Method::OPTIONS => Found::Options(allow),
            Some(allow) => Found::MethodNotAllowed(allow),
        }
    }

    fn lookup(&self, method: &Method, path: &str) -> Option<Hit> {
        let table = self.tables.iter().find(|table| table.method == *method)?;
        let found = table.tree.at(path).ok()?;
        let base = path.as_ptr() as usize;
        let ranges = found
            .params
            .iter()
            .map(|(_, value)| {
                let start = value.as_ptr() as usize - base;
                (start as u32, (start + value.len()) as u32)
            })
            .collect();
        Some(Hit { index: *found.value, ranges })
    }

    fn matched<'p>(&self, hit: Hit, path: Cow<'p, str>) -> Found<'_, 'p, T> {
        Found::Route(Matched { entry: &self.entries[hit.index], params: PathParams { path, ranges: hit.ranges } })
    }

    /// The `Allow` value for a path, or `None` when no method has it.
    fn allow(&self, asked: &Method, path: &str) -> Option<HeaderValue> {
        let mut methods: Vec<&str> = self
            .tables
            .iter()
            .filter(|table| table.method != *asked && table.tree.at(path).is_ok())
            .map(|table| table.method.as_str())
            .collect();
        if methods.is_empty() {
            return None;
        }
        if methods.contains(&"GET") && !methods.contains(&"HEAD") {
            methods.push("HEAD");
        }
        if !methods.contains(&"OPTIONS") {
            methods.push("OPTIONS");
        }
        methods.sort_unstable();
        HeaderValue::try_from(methods.join(", ")).ok()
    }
}

/// The names of the parameters in `path`, in order.
///
/// # Errors
/// A malformed path.
pub fn path_names(path: &str) -> Result<Vec<String>, RouteError> {
    parse_pattern(path).map(|pattern| pattern.names).map_err(|why| RouteError { message: format!("path {path} {why}") })
}

struct Hit {
    index: usize,
    ranges: SmallVec<[(u32, u32); 4]>,
}

/// The first earlier route that alone refuses `tree`: found by trying them one by one, so
/// that the message can name it with its handler.
fn rival<'e, T>(entries: &'e [Entry<T>], members: &[usize], tree: &str) -> Option<&'e Entry<T>> {
    members.iter().map(|&index| &entries[index]).find(|entry| {
        let Ok(pattern) = parse_pattern(&entry.path) else {
            return false;
        };
        let mut pair = matchit::Router::new();
        pair.insert(pattern.tree, ()).is_ok() && pair.insert(tree.to_owned(), ()).is_err()
    })
}

fn insert_reason<T>(error: &matchit::InsertError, rival: Option<&Entry<T>>) -> String {
    match (error, rival) {
        (matchit::InsertError::Conflict { .. }, Some(entry)) => format!(
            "conflicts with {} ({}): both could answer the same path; change one of them",
            entry.path, entry.name
        ),
        (matchit::InsertError::Conflict { with }, None) => {
            format!("conflicts with {with}: both could answer the same path; change one of them")
        }
        (matchit::InsertError::InvalidParamSegment, _) => {
            "has two parameters in one segment: put a / between them".to_owned()
        }
        (matchit::InsertError::InvalidCatchAll, _) => {
            "has something after a catch-all: {*name} must be the last segment".to_owned()
        }
        _ => "has a parameter without a name or a brace without its partner: \
              write {name}, or {{ for a literal brace"
            .to_owned(),
    }
}

/// A route's path in the tree's own spelling, and its parameter names in order.
struct Pattern {
    tree: String,
    names: Vec<String>,
}

/// Reads `{name}`, `{*name}` and `{name:path}`; literal text outside ASCII is written the
/// way it arrives on the wire.
fn parse_pattern(path: &str) -> Result<Pattern, String> {
    let mut tree = String::with_capacity(path.len());
    let mut names: Vec<String> = Vec::new();
    let mut rest = path;
    while let Some(first) = rest.chars().next() {
        if rest.starts_with("{{") || rest.starts_with("}}") {
            tree.push_str(&rest[..2]);
            rest = &rest[2..];
        } else if first == '{' {
            let end = rest.find('}').ok_or_else(|| "has a { without its }: write {name}".to_owned())?;
            let name = parse_param(&rest[1..end], &mut tree)?;
            if names.iter().any(|known| known == name) {
                return Err(format!("has the parameter {name} twice: rename one of them"));
            }
            names.push(name.to_owned());
            rest = &rest[end + 1..];
        } else {
            push_literal(first, &mut tree);
            rest = &rest[first.len_utf8()..];
        }
    }
    Ok(Pattern { tree, names })
}

/// Reads the inside of one pair of braces, writes it to `tree` and returns the name.
fn parse_param<'p>(inside: &'p str, tree: &mut String) -> Result<&'p str, String> {
    let (name, rest_of_path) = match inside.strip_prefix('*') {
        Some(name) => (name, true),
        None => match inside.split_once(':') {
            Some((name, "path")) => (name, true),
            Some((name, other)) => {
                return Err(format!(
                    "has the parameter {name} with the converter {other:?}, which does not exist: \
                     write {{{name}}} and give the type in the handler, or {{{name}:path}}"
                ));
            }
            None => (inside, false),
        },
    };
    if name.is_empty() {
        return Err("has a parameter without a name: write {name}".to_owned());
    }
    tree.push('{');
    if rest_of_path {
        tree.push('*');
    }
    tree.push_str(name);
    tree.push('}');
    Ok(name)
}

fn push_literal(c: char, tree: &mut String) {
    if c.is_ascii_graphic() {
        tree.push(c);
    } else {
        let mut buffer = [0; 4];
        for byte in c.encode_utf8(&mut buffer).bytes() {
            tree.push('%');
            push_hex(byte, tree);
        }
    }
}

fn push_hex(byte: u8, out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// One spelling for equivalent paths: escapes of unreserved characters are undone and the
/// hex digits of the others are upper case. An escaped slash stays escaped.
fn normalize(path: &str) -> Cow<'_, str> {
    if memchr::memchr(b'%', path.as_bytes()).is_none() {
        return Cow::Borrowed(path);
    }
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        match rest.get(at + 1..at + 3).map(|hex| u8::from_str_radix(hex, 16)) {
            Some(Ok(byte)) if !rest[at + 1..].starts_with('+') => {
                if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                    out.push(char::from(byte));
                } else {
                    out.push('%');
                    push_hex(byte, &mut out);
                }
                rest = &rest[at + 3..];
            }
            _ => {
                out.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
#[path = "router_tests.rs"]
mod tests;
