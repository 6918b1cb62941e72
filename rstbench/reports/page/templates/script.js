(() => {
  "use strict";
  const board = document.querySelector(".board > table");
  const glossary = new Map(
    [...document.querySelectorAll(".glossary dt")].map((term) => [term.textContent, term.nextElementSibling.textContent]),
  );

  // Flags explain themselves under the pointer and under the keyboard.
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.setAttribute("role", "tooltip");
  tip.hidden = true;
  document.body.append(tip);
  const hide = () => {
    tip.hidden = true;
    document.querySelector("[aria-describedby=tip]")?.removeAttribute("aria-describedby");
  };
  const show = (flag) => {
    hide();
    tip.textContent = glossary.get(flag.textContent) ?? "";
    if (!tip.textContent) return;
    tip.hidden = false;
    flag.setAttribute("aria-describedby", "tip");
    const box = flag.getBoundingClientRect();
    const left = Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
    const above = box.bottom + tip.offsetHeight + 12 > innerHeight;
    tip.style.left = `${Math.max(8, left) + scrollX}px`;
    tip.style.top = `${(above ? box.top - tip.offsetHeight - 6 : box.bottom + 6) + scrollY}px`;
  };
  for (const [type, action] of [["pointerover", show], ["focusin", show], ["pointerout", hide], ["focusout", hide]]) {
    document.addEventListener(type, (event) => {
      const flag = event.target.closest?.("a.flag");
      if (flag) action(flag);
    });
  }
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());

  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(button.previousElementSibling.textContent);
        button.textContent = "copied";
      } catch {
        getSelection().selectAllChildren(button.previousElementSibling);
        button.textContent = "selected";
      }
    });
  }
  if (!board) return;

  // A table that fits needs no scrolling of its own: its head then sticks to the window.
  const fit = () => {
    board.parentElement.classList.remove("fits");
    board.parentElement.classList.toggle("fits", board.scrollWidth <= board.parentElement.offsetWidth);
  };
  addEventListener("resize", fit);

  const rows = [...board.tBodies];
  for (const row of rows) {
    const evidence = row.rows[1];
    const name = row.querySelector("th.model");
    const button = document.createElement("button");
    button.type = "button";
    button.append(...name.childNodes);
    button.setAttribute("aria-expanded", "false");
    button.setAttribute("aria-controls", evidence.id);
    name.append(button);
    evidence.hidden = true;
    evidence.querySelector("details").open = true;
    button.addEventListener("click", () => {
      evidence.hidden = !evidence.hidden;
      button.setAttribute("aria-expanded", String(!evidence.hidden));
    });
    row.words = row.rows[0].textContent.toLowerCase();
  }

  // A click sorts, another turns round; what is empty stays last. Equal rows keep their order.
  const value = (row, column) => {
    const cell = row.rows[0].cells[column];
    return cell.dataset.v ?? cell.textContent.trim();
  };
  const heads = [...board.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    const number = head.classList.contains("n");
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const first = head.dataset.first ?? (number ? "descending" : "ascending");
      const order = before ? (before === "ascending" ? "descending" : "ascending") : first;
      const sign = order === "ascending" ? 1 : -1;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const keyed = rows.map((row) => [row, value(row, column)]);
      keyed.sort(([, a], [, b]) => {
        if (!a || !b) return !a - !b;
        return sign * (number ? parseFloat(a.replaceAll(",", "")) - parseFloat(b.replaceAll(",", "")) : a.localeCompare(b, "en", { numeric: true }));
      });
      rows.splice(0, rows.length, ...keyed.map(([row]) => row));
      for (const row of rows) row.classList.remove("first");
      board.append(...rows);
    });
  });

  const controls = document.querySelector(".controls");
  const filter = () => {
    const words = controls.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const { kind, threat } = controls.elements;
    let shown = 0;
    for (const row of rows) {
      const fits =
        words.every((word) => row.words.includes(word)) &&
        (!kind.value || row.dataset.kind === kind.value) &&
        (!threat.value || row.dataset.threat === threat.value);
      row.hidden = !fits;
      shown += fits;
    }
    controls.querySelector("output").textContent = `${shown} of ${rows.length} rows`;
  };
  controls.addEventListener("input", filter);
  controls.addEventListener("submit", (event) => event.preventDefault());
  filter();
  fit();
})();
