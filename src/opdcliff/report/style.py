"""Look of the report: sober, light or dark as the reader's system is, cards on a narrow screen."""

from __future__ import annotations

CSS = """
:root { color-scheme: light dark; --ink: #1d2329; --soft: #5a646e; --line: #d5dae0;
  --page: #ffffff; --pale: #f4f6f8; --good: #00684d; --bad: #a83c00; --odd: #7a5a00;
  --accent: #0b5c94; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ea; --soft: #a3adb7; --line: #3a424a;
  --page: #14181c; --pale: #1d2329; --good: #5ccba5; --bad: #ff9b63; --odd: #e3bd55;
  --accent: #78b8e6; } }
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100% }
body { margin: 0 auto; max-width: 66rem; padding: 2.5rem 1.5rem 4rem; background: var(--page);
  color: var(--ink); font: 1rem/1.55 system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
  overflow-wrap: break-word }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em }
h2 { font-size: 1.2rem; margin: 3rem 0 .6rem; padding-top: .9rem;
  border-top: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem }
p, li { max-width: 46rem } p { margin: .5rem 0 }
a { color: var(--accent) }
.lead { color: var(--soft); margin: 0 0 1.4rem }
.whole { white-space: nowrap }
.soft, figcaption, dt { color: var(--soft) }
nav { font-size: .9rem; margin: 1.4rem 0 0 } nav a { margin-right: 1rem; white-space: nowrap }
.sums { display: flex; flex-wrap: wrap; gap: .7rem; padding: 0; margin: 1.2rem 0 .8rem;
  list-style: none }
.sums li { background: var(--pale); border-left: 4px solid var(--line); padding: .5rem .9rem;
  min-width: 8.5rem; font-size: .88rem }
.sums b { display: block; font-size: 1.3rem; line-height: 1.3 }
.sums .good, .sums .bad, .sums .odd { border-color: currentColor }
.good { color: var(--good) } .bad { color: var(--bad) } .odd { color: var(--odd) }
.badge { display: inline-block; border: 1.5px solid currentColor; border-radius: 3px;
  padding: .02rem .4rem; font-size: .76rem; font-weight: 700; letter-spacing: .03em;
  white-space: nowrap }
.badge.bad { border-style: double; border-width: 3px }
.badge.odd { border-style: dashed }
.scroll { overflow-x: auto; margin: .8rem 0 }
.scroll:focus-visible { outline: 2px solid var(--accent) }
table { border-collapse: collapse; width: 100%; font-size: .88rem; line-height: 1.4;
  font-variant-numeric: tabular-nums }
th { text-align: left; font-weight: 600; color: var(--soft); vertical-align: bottom;
  border-bottom: 1.5px solid var(--line); padding: .35rem .6rem .35rem 0 }
td { vertical-align: top; border-bottom: 1px solid var(--line); padding: .45rem .6rem .45rem 0 }
.plain td { white-space: nowrap }
.even { table-layout: fixed } .even td { overflow-wrap: anywhere }
.even th:nth-child(1) { width: 14% } .even th:nth-child(2) { width: 20% }
.even th:nth-child(3) { width: 24% } .even th:nth-child(4) { width: 14% }
.even th:nth-child(5) { width: 8% }
tr.marked td { background: var(--pale) }
.long { display: inline-block; width: 16rem; white-space: normal }
.scale { display: block; width: 11rem; height: 1.7rem; color: var(--ink) }
.strip { display: block; width: 8rem; height: 1rem; color: var(--accent) }
figure { margin: 2rem 0 } .picture { overflow-x: auto }
figure img { display: block; width: 100%; height: auto; background: #fff;
  border: 1px solid var(--line) }
figcaption { font-size: .88rem; margin-top: .5rem; max-width: 46rem }
figcaption b { color: var(--ink) }
details { margin: .8rem 0 } summary { cursor: pointer; color: var(--accent) }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .3rem 1.2rem;
  font-size: .92rem; margin: .6rem 0 } dd { margin: 0; overflow-wrap: anywhere }
code, pre { font-family: ui-monospace, "Cascadia Mono", Menlo, "Liberation Mono", monospace;
  font-size: .86em } td code, dd code { overflow-wrap: anywhere }
pre { background: var(--pale); padding: .8rem 1rem; overflow-x: auto; line-height: 1.5 }
footer { margin-top: 3rem; color: var(--soft); font-size: .85rem }
@media (max-width: 46rem) {
  body { padding: 1.4rem 1rem 3rem } h1 { font-size: 1.4rem }
  .stack thead { display: none }
  .stack, .stack tbody, .stack tr, .stack td { display: block; width: 100% }
  .stack tr { border-bottom: 1.5px solid var(--line); padding: .7rem 0 }
  .stack td { border: 0; padding: .12rem 0 }
  .stack td::before { content: attr(data-label) ": "; color: var(--soft) }
  .stack td:first-child { font-weight: 700 } .stack td:first-child::before { content: "" }
  .scale { width: 100%; max-width: 20rem } figure img { min-width: 34rem }
  dl { grid-template-columns: minmax(0, 1fr); gap: 0 } dd { margin-bottom: .6rem }
}
@media print {
  :root { --ink: #000; --soft: #444; --line: #bbb; --page: #fff; --pale: #f2f2f2; --good: #00553f;
    --bad: #8a3000; --odd: #604700; --accent: #000 }
  body { max-width: none; padding: 0; font-size: 9.5pt } nav { display: none }
  h2 { break-after: avoid } figure, tr, .sums { break-inside: avoid }
  figure img { max-height: 22cm; object-fit: contain }
  .scroll { overflow: visible } .plain td { white-space: normal }
}
"""
