"use strict";
(() => {
  const find = (selector) => document.querySelector(selector);
  const every = (selector) => [...document.querySelectorAll(selector)];
  const counted = (number) => number.toLocaleString("en");

  // The texts of entries are read once, after the page is there or when they are first needed.
  let known = null;
  const groups = every("section.group");
  const entries = () => {
    known ??= groups.flatMap((group) =>
      [...group.querySelectorAll(".entry")].map((node) => {
        const [, key, , reason] = node.querySelector(".row").children;
        return {
          node,
          kind: group.dataset.kind,
          key: key.textContent,
          text: `${key.textContent}\n${reason.textContent}`.toLowerCase(),
          flags: (node.dataset.flags ?? "").split(" "),
          shown: true,
        };
      }),
    );
    return known;
  };

  const search = find("#search");
  const prefix = find("#prefix");
  const chips = every("[data-flag]");
  const cards = every("a.card");
  const kinds = new Set();
  const pressed = (button) => button.getAttribute("aria-pressed") === "true";

  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const below = prefix.value;
    const flags = chips.filter(pressed).map((chip) => chip.dataset.flag);
    const left = new Map(groups.map((group) => [group.dataset.kind, 0]));
    let shown = 0;
    for (const entry of entries()) {
      const fits =
        (kinds.size === 0 || kinds.has(entry.kind)) &&
        entry.key.startsWith(below) &&
        flags.every((flag) => entry.flags.includes(flag)) &&
        words.every((word) => entry.text.includes(word));
      if (fits !== entry.shown) {
        entry.shown = fits;
        entry.node.hidden = !fits;
      }
      if (fits) {
        shown += 1;
        left.set(entry.kind, left.get(entry.kind) + 1);
      }
    }
    const filtering = kinds.size > 0 || below !== "" || flags.length > 0 || words.length > 0;
    for (const group of groups) {
      group.hidden = filtering && left.get(group.dataset.kind) === 0;
    }
    for (const card of cards) {
      card.setAttribute("aria-pressed", String(kinds.has(card.dataset.kind)));
    }
    for (const part of every("svg.map a")) {
      const at = part.dataset.prefix;
      part.classList.toggle("dim", below !== "" && !at.startsWith(below) && !below.startsWith(at));
    }
    find("#clear").disabled = !filtering;
    find("#nothing").hidden = !filtering || shown > 0;
    const all = counted(entries().length);
    find("#status").textContent = filtering ? `${counted(shown)} of ${all} actions` : `${all} actions`;
    for (const link of every("#matching")) {
      link.textContent = `${counted(shown)} of ${all} actions, below`;
      link.parentElement.hidden = !filtering;
    }
  };

  const toggle = (kind) => {
    if (!kinds.delete(kind)) {
      kinds.add(kind);
    }
    filter();
  };

  const showAll = () => {
    kinds.clear();
    search.value = "";
    prefix.value = "";
    for (const chip of chips) {
      chip.setAttribute("aria-pressed", "false");
    }
    filter();
  };

  const copy = async () => {
    const id = find("#plan-id");
    const button = find("#copy");
    try {
      await navigator.clipboard.writeText(id.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(id);
      button.textContent = "Selected";
    }
  };

  const theme = () => {
    const root = document.documentElement;
    const dark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  };

  const target = (node) => node.querySelector("summary") ?? node;

  const step = (by) => {
    const shown = entries().filter((entry) => entry.shown);
    const here = document.activeElement.closest(".entry");
    const at = shown.findIndex((entry) => entry.node === here);
    const next = shown[at < 0 ? (by > 0 ? 0 : shown.length - 1) : at + by];
    if (next) {
      target(next.node).tabIndex = 0;
      target(next.node).focus({ preventScroll: true });
      next.node.scrollIntoView({ block: "nearest" });
    }
  };

  const open = () => {
    const details = document.activeElement.closest(".entry")?.querySelector("details");
    if (details) {
      details.open = !details.open;
    }
  };

  const keys = {
    "/": () => search.focus(),
    j: () => step(1),
    k: () => step(-1),
    o: open,
    c: copy,
    t: theme,
    0: showAll,
    "?": () => find("#keys").showModal(),
  };
  every(".card").forEach((card, number) => {
    keys[number + 1] = () => card.dataset.kind && toggle(card.dataset.kind);
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || find("#keys").open) {
      return;
    }
    if (event.target instanceof HTMLInputElement) {
      if (event.key === "Escape" || event.key === "Enter") {
        event.target.blur();
      }
    } else if (Object.hasOwn(keys, event.key)) {
      event.preventDefault();
      keys[event.key]();
    }
  });

  // A map is one stop of the Tab key; the arrows go from part to part.
  for (const map of every("svg.map")) {
    const parts = [...map.querySelectorAll("a")];
    parts.forEach((part, number) => part.setAttribute("tabindex", number === 0 ? "0" : "-1"));
    const move = (from, to) => {
      if (to) {
        from.setAttribute("tabindex", "-1");
        to.setAttribute("tabindex", "0");
        to.focus();
      }
    };
    map.addEventListener("keydown", (event) => {
      const at = parts.indexOf(event.target);
      if (event.key === "ArrowRight" || event.key === "ArrowDown") {
        event.preventDefault();
        move(parts[at], parts[at + 1]);
      } else if (event.key === "ArrowLeft" || event.key === "ArrowUp") {
        event.preventDefault();
        move(parts[at], parts[at - 1]);
      }
    });
    map.addEventListener("click", (event) => {
      const part = event.target.closest("a");
      if (part) {
        event.preventDefault();
        prefix.value = prefix.value === part.dataset.prefix ? "" : part.dataset.prefix;
        filter();
      }
    });
  }

  // A link into the list shows the entry whatever is filtered.
  find("#findings")?.addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (link) {
      showAll();
      target(find(link.getAttribute("href"))).focus();
    }
  });

  for (const card of cards) {
    card.setAttribute("role", "button");
    card.setAttribute("aria-pressed", "false");
    card.addEventListener("click", (event) => {
      event.preventDefault();
      toggle(card.dataset.kind);
    });
    card.addEventListener("keydown", (event) => {
      if (event.key === " ") {
        event.preventDefault();
        toggle(card.dataset.kind);
      }
    });
  }
  for (const chip of chips) {
    chip.addEventListener("click", () => {
      chip.setAttribute("aria-pressed", String(!pressed(chip)));
      filter();
    });
  }
  search.addEventListener("input", filter);
  prefix.addEventListener("input", filter);
  find("#clear").addEventListener("click", showAll);
  find("#copy").addEventListener("click", copy);
  find("#theme").addEventListener("click", theme);
  find("#ask").addEventListener("click", keys["?"]);
  find("#open-all").addEventListener("click", () => {
    const shown = every(".entry:not([hidden]) > details");
    const opening = shown.some((details) => !details.open);
    for (const details of shown) {
      details.open = opening;
    }
  });

  (window.requestIdleCallback ?? setTimeout)(entries);
  find("#clear").disabled = true;
  for (const node of every(".filters, .tools, .scripted, #copy")) {
    node.hidden = false;
  }
})();
