"""The pictures of a sweep: figures in which hovering over a trial shows its settings."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from scipy.interpolate import RBFInterpolator, griddata

from service.pages.figures import BLUE, GRAY, GREEN, ORANGE, PERCENT, titled, wrapped
from service.run.report import is_accuracy, metric_text
from service.sweep import analysis
from service.sweep.analysis import STATE_WORDS, TrialRecord, is_number, value_text

TEMPERATURE, WEIGHT = "losses.dtkd.base_temperature", "losses.dtkd.weight"
STATES = list(STATE_WORDS.values())
COLORS = dict(zip(STATES, (BLUE, GREEN, GRAY, GRAY, ORANGE), strict=True))
SHAPES = ("circle", "triangle-down-open", "square-open", "diamond-open", "x-thin-open")
SYMBOLS = dict(zip(STATES, SHAPES, strict=True))
BY_STATE = {
    "color": "state",
    "color_discrete_map": COLORS,
    "category_orders": {"state": STATES},
    "custom_data": ["hover", "number"],
    # Above 1,000 points, Plotly would need WebGL.
    "render_mode": "svg",
}
STAR = {"symbol": "star", "size": 15, "color": "#fde725", "line": {"color": "black", "width": 1}}
# Darker is better. The yellow end of viridis is hard to see on white.
SHADES = sample_colorscale("Viridis", np.linspace(0.93, 0, 21).tolist())
BELOW = -0.12
"""Height of a missing value, where values extend from 0 to 1."""
MIN_FITTED, MAX_FITTED, SMOOTHING_PER_TRIAL = 6, 1000, 0.01
GRID = np.linspace(0.0, 1.0, 60)
MIN_TRIALS_FOR_RELIABLE_SHARES = 50
"""With fewer trials, fANOVA's forest does not separate the parameters' shares reliably."""
SECONDS = "training time (s)"


class SweepPictures:
    """Draws the trials of a sweep; ``log_params``: paths of what was searched on a log scale."""

    def __init__(
        self,
        records: Sequence[TrialRecord],
        metric: str,
        maximizes: bool,
        log_params: Collection[str],
    ) -> None:
        self.records, self.metric, self.log_params = records, metric, log_params
        self.shades = SHADES if maximizes else SHADES[::-1]
        self.ranked = analysis.best_first(records, maximizes)
        self.best = analysis.best_so_far(records, maximizes)
        self.paths = list(dict.fromkeys(path for record in records for path in record.params))
        values = {
            path: [r.params[path] for r in records if path in r.params] for path in self.paths
        }
        self.categories = {
            path: sorted({value_text(value) for value in some})
            for path, some in values.items()
            if not all(map(is_number, some))
        }
        """The texts of each parameter's values, if these are not all numbers."""
        self.trials = pd.DataFrame(map(self._row, records), index=[r.number for r in records])
        self.trials[metric] = pd.to_numeric(self.trials[metric])
        self.finished = self.trials[self.trials["state"] == STATE_WORDS["finished"]]
        # Scores of trials stopped early, mostly worse, and outliers would compress the colors.
        scores = (self.finished if len(self.finished) > 2 else self.trials)[metric]
        self.color_range = scores.quantile([0.1, 1] if maximizes else [0, 0.9]).fillna(0).tolist()

    def by_time(self, front: Sequence[TrialRecord]) -> go.Figure:
        """The metric against training time, of finished trials, and their Pareto front."""
        figure = self._scatter(self.finished, SECONDS, self.metric, "by training time")
        return figure.add_scatter(
            x=[record.seconds for record in front],
            y=[record.score for record in front],
            text=[f"trial {record.number}" for record in front],
            mode="lines+text",
            textposition="top right",
            line={"shape": "hv", "color": "#440154"},
            hoverinfo="skip",
            name="Pareto front",
        )

    def temperature_map(self) -> go.Figure | None:
        """The metric by DTKD's base temperature and weight; None unless both are searched."""
        if not {TEMPERATURE, WEIGHT} <= {*self.paths} - {*self.categories}:
            return None
        title = "by DTKD's base temperature and weight"
        figure = self._scatter(self.trials, TEMPERATURE, WEIGHT, title)
        shown = self.trials.dropna(subset=[TEMPERATURE, WEIGHT])
        for trace in figure.data:
            # In the order of the trials, as Plotly groups them.
            scores = shown[self.metric][shown["state"] == trace.name]
            if scores.notna().any():
                trace.marker.update(color=scores, coloraxis="coloraxis")
        figure.add_traces(self._surface())
        low, high = self.color_range
        bar = {"tickformat": PERCENT if is_accuracy(self.metric) else None}
        colors = {"colorscale": self.shades, "cmin": low, "cmax": high, "colorbar": bar}
        return figure.update_layout(coloraxis=colors)

    def parallel_coordinates(self) -> go.Figure:
        """Each trial as a line through all parameters and the metric; darker is better."""
        columns, figure = [*self.paths, self.metric], go.Figure()
        heights = pd.DataFrame({name: _heights(self._numbers(name)) for name in columns}).fillna(
            BELOW
        )
        for record in self.ranked[::-1]:
            hover = [[self.trials["hover"][record.number]]]
            y = heights.loc[record.number]
            figure.add_scatter(x=columns, y=y, customdata=hover, **self._line_style(record))
        for name in columns:
            for height, text in self._ticks(name):
                label = {"text": wrapped(text, 18), "showarrow": False, "bgcolor": "white"}
                figure.add_annotation(x=name, y=height, **label)
        # One entry of the legend for all lines of a name.
        figure.update_traces(showlegend=False)
        for trace in {trace.name: trace for trace in figure.data}.values():
            trace.showlegend = True
        figure.update_yaxes(visible=False)
        return self._finish(figure, "and parameters, one line per trial")

    def learning_curves(self) -> go.Figure | None:
        """The metric after each evaluated epoch; None before the first that is finite."""
        rows = [
            {**self._row(record), "epochs done": epoch, self.metric: value}
            for record in self.records
            for epoch, value in record.curve
            if math.isfinite(value)
        ]
        if not rows:
            return None
        lines = {"x": "epochs done", "y": self.metric, "line_group": "number", "markers": True}
        figure = px.line(pd.DataFrame(rows), **lines, **BY_STATE)
        if is_accuracy(self.metric):
            figure.update_yaxes(tickformat=PERCENT)
        if self.best is not None and self.best.curve:
            self._add_star(figure, *self.best.curve[-1])
        return self._finish(figure, "by epoch")

    def importances(self, shares: Mapping[str, float], epoch: int) -> go.Figure:
        """Share of the metric's variance that each parameter explains."""
        num_compared = sum(epoch in dict(record.curve) for record in self.records)
        title = f"after {epoch} epochs: share of its variance that each parameter explains"
        if num_compared < MIN_TRIALS_FOR_RELIABLE_SHARES:
            title += f" (a rough estimate, from {num_compared} trials only)"
        ranked = dict(sorted(shares.items(), key=lambda item: item[1]))
        figure = px.bar(x=[*ranked.values()], y=[*ranked], orientation="h", text_auto=".0%")
        figure.update_traces(marker_color=COLORS[STATE_WORDS["finished"]])
        figure.update_xaxes(title="share of variance", tickformat=".0%").update_yaxes(title=None)
        return self._finish(figure, title).update_traces(hovertemplate="%{y}: %{x:.1%}")

    def _row(self, record: TrialRecord) -> dict[str, Any]:
        """The trial's values by column, and the text that is shown for it."""
        score = None if record.state == "failed" else analysis.finite_score(record)
        state = STATE_WORDS[record.state] + (", best" if record is self.best else "")
        shown = "no score" if score is None else metric_text(score, self.metric)
        settings = {path: value_text(value) for path, value in record.params.items()}
        lines = [f"trial {record.number}, {state}: {shown}", *map(": ".join, settings.items())]
        return {
            **record.params,
            **{path: settings[path] for path in self.categories if path in settings},
            self.metric: score,
            "number": record.number,
            "state": STATE_WORDS[record.state],
            SECONDS: record.seconds,
            "hover": "<br>".join(wrapped(line, 60) for line in lines),
        }

    def by_parameter(self, path: str) -> go.Figure:
        """The metric against a parameter; trials without a score are below the others."""
        table, texts = self.trials.copy(), self.categories.get(path)
        low, high = table[self.metric].min(), table[self.metric].max()
        table[self.metric] = table[self.metric].fillna(low + BELOW * (high - low))
        title = f"at the last epoch reached, by {path}"
        num_users = int(table[path].notna().sum())
        axis = {"title": wrapped(path, 32) + f"<br><sub>used by {num_users} trials</sub>"}
        if texts is None:
            return self._scatter(table, path, self.metric, title).update_xaxes(axis)
        # In a category, trials are spread by their numbers.
        spread = (table["number"] * 0.618034 % 1 - 0.5) / 2
        table[path] = table[path].map(texts.index, na_action="ignore") + spread
        labels = [wrapped(text, 18) for text in texts]
        figure = self._scatter(table, path, self.metric, title)
        return figure.update_xaxes(axis, tickvals=[*range(len(texts))], ticktext=labels)

    def _scatter(self, table: pd.DataFrame, x: str, y: str, title: str) -> go.Figure:
        """The trials with their state's marker, and a star on the best."""
        shown = table.dropna(subset=[x, y])
        figure = px.scatter(shown, x=x, y=y, symbol="state", symbol_map=SYMBOLS, **BY_STATE)
        for name, update in ((x, figure.update_xaxes), (y, figure.update_yaxes)):
            is_share = name == self.metric and is_accuracy(name)
            update(type="log" if name in self.log_params else None)
            update(tickformat=PERCENT if is_share else None)
        if self.best is not None and self.best.number in table.index:
            self._add_star(figure, table[x][self.best.number], table[y][self.best.number])
        return self._finish(figure, title)

    def _add_star(self, figure: go.Figure, x: float, y: float) -> None:
        assert self.best is not None
        name, hover = f"best (trial {self.best.number})", self.trials["hover"][self.best.number]
        figure.add_scatter(
            x=[x], y=[y], mode="markers", marker=STAR, name=name, customdata=[[hover]]
        )

    def _finish(self, figure: go.Figure, title: str) -> go.Figure:
        """The figure with a title that has the number of trials."""
        titled(figure, f"{self.metric} {title}", analysis.counts_text(self.records))
        for trace in figure.data:
            texts = [row[0] for row in trace.customdata] if trace.customdata is not None else []
            # A text that is the same at all points is stored once.
            trace.update(hovertext=texts[0] if len({*texts}) == 1 else texts, customdata=None)
            # No template: in it, Plotly does not know a text that is stored once.
            trace.update(hovertemplate=None, hoverinfo=trace.hoverinfo or "text")
        return figure

    def _surface(self) -> list[go.Contour]:
        """A smooth surface fitted to the finished trials, within their convex hull."""
        rows = self.finished.dropna(subset=[TEMPERATURE, WEIGHT, self.metric])[:MAX_FITTED]
        if len(rows) < MIN_FITTED:
            return []
        columns = [self._numbers(path) for path in (TEMPERATURE, WEIGHT)]
        points = np.stack([_heights(column)[rows.index] for column in columns], axis=1)
        if np.linalg.matrix_rank(points - points.mean(axis=0), tol=0.02) < 2:
            return []
        smoothing = SMOOTHING_PER_TRIAL * len(points)
        fit = RBFInterpolator(points, rows[self.metric].to_numpy(float), smoothing=smoothing)
        z = griddata(points, fit(points), tuple(np.meshgrid(GRID, GRID)))
        low, high = self.color_range
        style = {"colorscale": self.shades, "zmin": low, "zmax": high, "showscale": False}
        style |= {"opacity": 0.4, "hoverinfo": "skip", "zorder": -1}
        x, y = (np.linspace(column.min(), column.max(), len(GRID)) for column in columns)
        x = np.exp(x) if TEMPERATURE in self.log_params else x
        y = np.exp(y) if WEIGHT in self.log_params else y
        return [go.Contour(x=x, y=y, z=z, **style)]

    def _numbers(self, name: str) -> pd.Series:
        """A column as numbers on a linear scale."""
        column = self.trials[name]
        if name in self.categories:
            column = column.map(self.categories[name].index, na_action="ignore")
        return np.log(column.astype(float)) if name in self.log_params else column.astype(float)

    def _ticks(self, name: str) -> list[tuple[float, str]]:
        """Heights and texts of the lowest and highest number on an axis, or of its categories."""
        if texts := self.categories.get(name):
            return [(at / max(len(texts) - 1, 1), text) for at, text in enumerate(texts)]
        ends = self.trials[name].agg(["min", "max"])
        texts = [metric_text(v, name) if name == self.metric else f"{v:.3g}" for v in ends]
        return [(0.0, texts[0]), (1.0, texts[1])]

    def _line_style(self, record: TrialRecord) -> dict[str, Any]:
        low, high = self.color_range
        score = self.trials[self.metric][record.number]
        if pd.isna(score):
            style = {"dash": "dot", "color": COLORS[STATE_WORDS["failed"]]}
            return {"line": style, "name": "failed or no score"}
        fraction = np.clip((score - low) / ((high - low) or 1.0), 0, 1)
        (color,) = sample_colorscale(self.shades, [float(fraction)])
        if record is self.best:
            return {"line": {"color": color, "width": 5}, "name": f"best (trial {record.number})"}
        is_finished = record.state == "finished"
        name = "finished" if is_finished else "stopped early or running"
        return {"line": {"color": color, "width": 3 if is_finished else 1}, "name": name}


def _heights(column: pd.Series) -> pd.Series:
    """The numbers mapped to a range from 0 to 1."""
    if column.min() == column.max():
        return column * 0 + 0.5
    return (column - column.min()) / (column.max() - column.min())
