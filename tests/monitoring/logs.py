"""Log entries, and log-based metrics over them: the small part of the Logging query language that infra/ uses.

https://cloud.google.com/logging/docs/view/logging-query-language. What it does not know, it refuses.
"""

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

SEVERITIES = ["DEFAULT", "DEBUG", "INFO", "NOTICE", "WARNING", "ERROR", "CRITICAL", "ALERT", "EMERGENCY"]
_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    ":": operator.contains,
}
_TERM = re.compile(
    r"(?P<not>NOT )?(?P<path>[a-zA-Z_]+(?:\.[a-zA-Z_]+)*)(?:(?P<has>:\*)|(?P<operator>>=|<=|=|>|<|:(?=\x22))"
    r'(?:"(?P<text>[^"\\]*)"|\((?P<any>"[^"\\]*"(?: OR "[^"\\]*")*)\)|(?P<number>\d+(?:\.\d+)?)|(?P<word>[A-Z]+)))'
)
_EXTRACTOR = re.compile(
    r'EXTRACT\((?P<whole>[a-zA-Z.]+)\)|REGEXP_EXTRACT\((?P<field>[a-zA-Z.]+), "(?P<pattern>[^"]+)"\)'
)

Entry = Mapping[str, Any]


class Unreadable(ValueError):
    """A filter or an extractor of a form that is not known here."""


def entry(service: str, line: Mapping[str, Any]) -> Entry:
    """What Cloud Run makes of a line that a container printed: the special fields are taken out of the payload."""
    special = ("severity", "time")
    return {
        "resource": {"type": "cloud_run_revision", "labels": {"service_name": service, "revision_name": "a-revision"}},
        "severity": line["severity"],
        "timestamp": datetime.fromisoformat(line["time"]),
        "jsonPayload": {
            name: value
            for name, value in line.items()
            if name not in special and not name.startswith("logging.googleapis.com/")
        },
    }


def value_at(found: Any, path: str) -> Any:
    """What stands at a dotted path; None where nothing does."""
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def paths(query: str) -> Iterator[str]:
    """The fields that a filter names. Raises Unreadable for a filter of another form."""
    yield from (term["path"] for term in _terms(query))


def matches(query: str, found: Entry) -> bool:
    """Whether an entry passes a filter."""
    return all(_holds(term, found) is not bool(term["not"]) for term in _terms(query))


def _terms(query: str) -> list[re.Match[str]]:
    terms, at = [], 0
    while True:
        term = _TERM.match(query, at)
        if not term or (term["word"] and term["path"] != "severity"):
            raise Unreadable(query[at:])
        terms.append(term)
        at = term.end()
        if at == len(query):
            return terms
        if not query.startswith(" AND ", at):
            raise Unreadable(query[at:])
        at += len(" AND ")


def _holds(term: re.Match[str], found: Entry) -> bool:
    value = value_at(found, term["path"])
    if value is None:
        return False  # whatever it is compared with
    if term["has"]:
        return True
    compare = _OPERATORS[term["operator"]]
    if term["word"]:
        return compare(SEVERITIES.index(value), SEVERITIES.index(term["word"]))
    if term["number"]:
        return isinstance(value, int | float) and not isinstance(value, bool) and compare(value, float(term["number"]))
    texts = re.findall(r'"([^"]*)"', term["any"]) if term["any"] else [term["text"]]
    return any(compare(_text(value).casefold(), text.casefold()) for text in texts)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def extracted(extractor: str, found: Entry) -> Any:
    """What an extractor takes out of an entry; None where there is nothing. Raises Unreadable."""
    parts = _read(extractor)
    value = value_at(found, parts["whole"] or parts["field"])
    if parts["whole"] or value is None:
        return value
    matched = re.search(parts["pattern"], _text(value))
    return matched[1] if matched else None


def _read(extractor: str) -> re.Match[str]:
    parts = _EXTRACTOR.fullmatch(extractor)
    if not parts:
        raise Unreadable(extractor)
    return parts


@dataclass(frozen=True, slots=True)
class LogMetric:
    """A `google_logging_metric` as it is planned."""

    name: str
    filter: str
    labels: Mapping[str, str]
    value: str | None

    @classmethod
    def planned(cls, values: Mapping[str, Any]) -> "LogMetric":
        return cls(values["name"], values["filter"], values["label_extractors"] or {}, values["value_extractor"])

    @property
    def type(self) -> str:
        return f"logging.googleapis.com/user/{self.name}"

    @property
    def fields(self) -> set[str]:
        """Every field of an entry that it goes by."""
        extractors = [*self.labels.values(), *([self.value] if self.value else [])]
        read = map(_read, extractors)
        return {*paths(self.filter), *(parts["whole"] or parts["field"] for parts in read)}

    def point(self, found: Entry) -> tuple[dict[str, str], float] | None:
        """The labels and the value that an entry adds (1 where entries are counted); None where it adds nothing."""
        if not matches(self.filter, found):
            return None
        labels = {label: extracted(extractor, found) for label, extractor in self.labels.items()}
        value = extracted(self.value, found) if self.value else 1
        if value is None:
            return None
        return {label: "" if text is None else _text(text) for label, text in labels.items()}, float(value)
