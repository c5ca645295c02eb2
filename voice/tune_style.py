"""How the report of `voice tune` looks, light or dark as the reader likes it."""

STYLE = """
:root { color-scheme: light dark; --paper: #fbfbf9; --card: #fff; --ink: #1d2427; --soft: #5c686d;
  --rule: #d9dedd; --grid: #eceeed; --best: #00757f; --start: #8a5a00; --limit: #b3261e;
  --front: #5b3fa8; --other: #9aa5a8; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181a; --card: #1c2224; --ink: #e8ecec;
  --soft: #a3afb2; --rule: #364043; --grid: #283033; --best: #4fd0d6; --start: #e6b450;
  --limit: #ff8a80; --front: #b9a3ff; --other: #77858a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 28px 24px 60px; max-width: 1120px; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 24px; line-height: 1.3; margin: 0 0 6px; text-wrap: balance; }
h2 { font-size: 17px; margin: 36px 0 4px; }
p { margin: 0 0 10px; max-width: 75ch; }
.soft { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(180px, 1fr)); gap: 12px;
  margin: 20px 0; }
.tile, figure { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; }
.tile { padding: 12px 16px; }
.tile b { display: block; font-size: 25px; line-height: 1.25;
  font-variant-numeric: tabular-nums; color: var(--best); }
.tile small, .tile span { color: var(--soft); font-size: 13px; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(430px, 100%), 1fr));
  gap: 16px; }
.knobs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(320px, 100%), 1fr));
  gap: 16px; }
figure { margin: 0; padding: 14px 14px 10px; }
figcaption { font-weight: 600; }
figcaption + p { font-size: 13px; margin: 2px 0 6px; color: var(--soft); }
svg { display: block; width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft); }
svg text.label { font-size: 12.5px; fill: var(--ink); }
.zero { stroke: var(--soft); }
.grid { stroke: var(--grid); }
.axis { fill: none; stroke: var(--rule); }
line.tick { stroke: var(--rule); }
.limit-key { stroke: var(--limit); stroke-width: 2; stroke-dasharray: 5 3; }
line.limit { stroke: var(--limit); stroke-width: 1.3; stroke-dasharray: 6 4; }
svg text.limit { fill: var(--limit); }
line.upright { stroke: var(--soft); stroke-dasharray: 2 3; }
.line { fill: none; stroke-width: 2; stroke: var(--other); }
.line.faint { stroke-width: 1.2; }
.line.start { stroke: var(--start); }
.line.best { stroke: var(--best); }
.line.front { stroke: var(--front); stroke-width: 1.5; }
.point { stroke-width: 2; stroke: var(--other); fill: var(--other); }
.point.start { stroke: var(--start); fill: var(--start); }
.point.best { stroke: var(--best); fill: var(--best); }
.point.front { stroke: var(--front); fill: var(--front); }
.point.fails { fill: var(--card); }
.spread { fill: none; stroke-width: 1.3; stroke: var(--other); }
.spread.start { stroke: var(--start); }
.spread.best { stroke: var(--best); }
svg text.name { font-weight: 600; }
svg text.start { fill: var(--start); }
svg text.best { fill: var(--best); }
svg text.fails { fill: var(--limit); }
svg text.front { fill: var(--front); font-weight: 400; }
.key { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 13px; color: var(--soft);
  margin: 0 0 12px; }
.key svg { display: inline-block; width: 14px; height: 14px;
  vertical-align: -2px; margin-right: 5px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; width: 100%; }
th, td { padding: 4px 12px 4px 0; border-bottom: 1px solid var(--rule); text-align: right;
  white-space: nowrap; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; white-space: normal; vertical-align: bottom; }
figure th, figure td { padding-right: 8px; font-size: 12.5px; }
figure th:last-child, figure td:last-child { padding-right: 0; }
td.text, th.text { text-align: left; }
td.what { white-space: normal; min-width: 220px; }
tr.best td { color: var(--best);
  font-weight: 600; }
tr.start td { color: var(--start); font-weight: 600; }
td.no { color: var(--limit); }
pre { background: var(--card); border: 1px solid var(--rule);
  border-radius: 8px; padding: 12px 14px; overflow-x: auto; font-size: 13px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 0;
  font-size: 14px; }
dt { color: var(--soft); }
dd { margin: 0; }
"""
