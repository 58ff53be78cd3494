"""Calls of the hooks that review, observe and wrap: one implementation after the other, none of them trusted."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from math import isfinite
from typing import Any, cast

import numpy as np
import pluggy

from edgerec.errors import PluginError
from edgerec.interfaces import FAILURES, Settings
from edgerec.isolation import Isolation, said
from edgerec.records import changed, record
from edgerec.types import BundleReview, Float32, LearningBatch, Model, Page, PageRequest, Recommendation, Request, State

REVIEWS = ("edgerec_review_update", "edgerec_review_bundle")
OBSERVERS = ("edgerec_event_recorded", "edgerec_update_decided", "edgerec_bundle_changed")
ANSWERS = ("edgerec_recommend", "edgerec_cold_start")
CALLED = (*REVIEWS, *OBSERVERS, *ANSWERS)


def check_fit(manager: pluggy.PluginManager, plugin: str) -> None:
    """Raises PluginError where a function of a registered plugin answers no hook of ours, or not as it must."""
    callers = manager.get_hookcallers(manager.get_plugin(plugin))
    if not callers:
        raise PluginError("it has no function that is marked @hookimpl")
    for caller in callers:
        for one in caller.get_hookimpls():
            if one.plugin_name == plugin and (reason := _unfit(caller, one)) is not None:
                raise PluginError(reason)


def _unfit(caller: pluggy.HookCaller, implementation: pluggy.HookImpl) -> str | None:
    """Why a function cannot answer a hook, None where it can."""
    hook = caller.name
    if not caller.has_spec():
        return None if implementation.optionalhook else f"there is no hook {hook}"
    if hook == "edgerec_recommend":
        return None if implementation.wrapper else f"{hook} is for wrappers: mark it @hookimpl(wrapper=True)"
    if implementation.wrapper or implementation.hookwrapper:
        return f"{hook} takes no wrappers"
    function = implementation.function
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        return f"{hook} must be a plain function: nobody awaits it, or goes on after a yield"
    return None


@record
class _Implementation:
    """What one plugin answers to one hook; `name`: "PLUGIN HOOK"."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[str, ...]
    settings: Settings
    run: Callable[..., Any] | None

    def call(self, values: Mapping[str, Any]) -> Any:
        """Passes on what the implementation asks for."""
        chosen = {name: self.settings if name == "settings" else values[name] for name in self.arguments}
        result = self.step(lambda: self.function(**chosen))
        if hasattr(result, "__await__"):
            raise TypeError("nobody awaits what a hook returns")
        return result

    def step(self, function: Callable[[], Any]) -> Any:
        return function() if self.run is None else self.run(function)


class Hooks:
    """The implementations of one recommender's plugins, in pluggy's order."""

    def __init__(
        self,
        manager: pluggy.PluginManager,
        isolation: Isolation,
        outsiders: set[str],
        settings_of: Mapping[str, Settings],
    ) -> None:
        """`outsiders`: plugins that do not come with edgerec · `settings_of`: constants by plugin."""
        self._watch = isolation
        self._found: dict[str, list[_Implementation]] = {}
        for hook in CALLED:
            # pluggy keeps them in reverse: the last one is called first
            for one in reversed(getattr(manager.hook, hook).get_hookimpls()):
                plugin = str(one.plugin_name)
                name = f"{plugin} {hook}"
                run = isolation.runner(name, outsider=plugin in outsiders)
                settings = settings_of.get(plugin, {})
                made = _Implementation(name, one.function, tuple(one.argnames), settings, run)
                self._found.setdefault(hook, []).append(made)

    def asked(self, hook: str) -> bool:
        """Whether anybody implements the hook."""
        return hook in self._found

    def _usable(self, hook: str) -> Sequence[_Implementation]:
        found = self._found.get(hook, ())
        return [one for one in found if self._watch.usable(one.name)] if self._watch.disabled else found

    def review_update(self, updater: str, before: State, after: State, batch: LearningBatch) -> str | None:
        """The first veto of a learning step, None where there is none."""
        return self._vetoed(
            "edgerec_review_update", {"updater": updater, "before": before, "after": after, "batch": batch}
        )

    def review_bundle(self, review: BundleReview) -> str | None:
        """The first veto of a bundle, None where there is none."""
        return self._vetoed("edgerec_review_bundle", {"review": review})

    def _vetoed(self, hook: str, values: Mapping[str, Any]) -> str | None:
        for one in self._usable(hook):
            try:
                reason = said(one.call(values), hook)
            except FAILURES as error:
                self._watch.failed(one.name, error)
                reason = f"it failed: {type(error).__name__}"
            if reason is not None:
                return f"{one.name.partition(' ')[0]}: {reason}"
        return None

    def observe(self, hook: str, **values: Any) -> None:
        """Tells everybody who wants to know."""
        for one in self._usable(hook):
            try:
                one.call(values)
            except FAILURES as error:
                self._watch.failed(one.name, error)

    def cold_start(self, request: Request, model: Model) -> Float32 | None:
        """Scores for a user who has done nothing, float32 (n_items,); None where nobody has any."""
        for one in self._usable("edgerec_cold_start"):
            try:
                scores = one.call({"request": request, "model": model})
                if scores is None:
                    continue
                scores = np.asarray(scores, np.float32)
                if scores.shape != (model.n_items,) or not np.isfinite(scores).all():
                    raise ValueError(f"scores {scores.shape} instead of ({model.n_items},), or not finite")
                return cast(Float32, scores)
            except FAILURES as error:
                self._watch.failed(one.name, error)
        return None

    def recommend(self, request: PageRequest, make: Callable[[], Page]) -> Page:
        """The page, inside every wrapper. A wrapper that fails is left out, named in the page, and used no more."""
        open_: list[tuple[_Implementation, Generator[None, Page, Page]]] = []
        for one in self._usable("edgerec_recommend"):
            try:
                wrapper = one.call({"request": request})
                next(wrapper) if one.run is None else one.run(next, wrapper)
                open_.append((one, wrapper))
            except FAILURES as error:
                self._watch.failed(one.name, error, last=True)
        try:
            page = make()
        except BaseException:
            for one, wrapper in reversed(open_):
                self._closed(one, wrapper)
            raise
        for one, wrapper in reversed(open_):
            page = self._resumed(one, wrapper, page, request.n)
        if not self._watch.disabled:
            return page
        failed = [one.name for one in self._found["edgerec_recommend"] if not self._watch.usable(one.name)]
        return changed(page, degraded=(*page.degraded, *failed)) if failed else page

    def _resumed(self, one: _Implementation, wrapper: Generator[None, Page, Page], page: Page, n: int) -> Page:
        """What the wrapper makes of a page; the page itself where it fails."""
        try:
            made = _sent(wrapper, page) if one.run is None else one.run(_sent, wrapper, page)
            return made if made is page else _checked(made, page, n)
        except FAILURES as error:
            self._watch.failed(one.name, error, last=True)
            return page

    def _closed(self, one: _Implementation, wrapper: Generator[None, Page, Page]) -> None:
        try:
            one.step(wrapper.close)
        except FAILURES as error:
            self._watch.failed(one.name, error, last=True)


def _sent(wrapper: Generator[None, Page, Page], page: Page) -> Page:
    try:
        wrapper.send(page)
    except StopIteration as end:
        result: Page = end.value
        return result
    wrapper.close()
    raise PluginError("a wrapper must yield once")


def _checked(made: object, page: Page, n: int) -> Page:
    """What a wrapper made of a page, its places counted anew. Raises TypeError or ValueError where it is no page that
    can be shown and logged."""
    if not isinstance(made, Page):
        raise TypeError(f"edgerec_recommend must return a Page, not {type(made).__name__}")
    if (made.id, made.scenario) != (page.id, page.scenario):
        raise ValueError("a wrapper must leave the page's id and scenario")
    items = tuple(made.items)
    if len(items) > n or not all(map(_sound, items)):
        raise ValueError(f"items must be at most {n} Recommendations with finite scores and propensities in (0, 1]")
    if made.items is items and all(one.rank == place for place, one in enumerate(items, 1)):
        return made
    return changed(made, items=tuple([changed(one, rank=place) for place, one in enumerate(items, 1)]))


def _sound(one: object) -> bool:
    return (
        isinstance(one, Recommendation)
        and isinstance(one.item, str)
        and isinstance(one.title, str)
        and isinstance(one.score, (int, float))
        and isfinite(one.score)
        and isinstance(one.propensity, (int, float))
        and 0 < one.propensity <= 1
    )
