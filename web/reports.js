// What a node of the pack reports, on the node: browsers show such texts of the host's own nodes only.

import { app } from "../../scripts/app.js";

const NAME = "report";
const STYLE = {
    boxSizing: "border-box", padding: "4px 8px", borderRadius: "4px", overflowY: "auto",
    // With spaces and lines as they are: reports have columns.
    whiteSpace: "pre-wrap", overflowWrap: "anywhere", font: "11px/1.4 ui-monospace, monospace",
    userSelect: "text", cursor: "text", background: "var(--comfy-input-bg)", color: "var(--input-text)",
};
const LEAST = 60;

function show(node, lines) {
    let widget = node.widgets?.find(widget => widget.name === NAME);
    if (!widget) {
        const element = document.createElement("div");
        Object.assign(element.style, STYLE);
        widget = node.addDOMWidget(NAME, "cnet_report", element, { serialize: false, getMinHeight: () => LEAST });
        // Neither in the prompt nor in the saved workflow.
        widget.serialize = false;
        const [width, height] = node.computeSize();
        node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)]);
    }
    // As text, never as HTML: files and metadata of strangers are named in it.
    widget.element.textContent = lines.join("\n");
    node.setDirtyCanvas(true, true);
}

// A node of the whole workflow, by its id, or within a subgraph by that one's and its own.
function located(id) {
    const root = app.rootGraph ?? app.graph;
    const [subgraph, own] = String(id).includes(":") ? String(id).split(":") : [null, id];
    return (subgraph === null ? root : root.subgraphs?.get(subgraph))?.getNodeById(own);
}

app.registerExtension({
    name: "cnet.reports",
    beforeRegisterNodeDef(nodeType, definition) {
        if (!definition.name.startsWith("CNet")) return;
        const executed = nodeType.prototype.onExecuted;
        nodeType.prototype.onExecuted = function (output) {
            executed?.apply(this, arguments);
            if (output?.text) show(this, output.text);
        };
    },
    // Where nodes are made anew: after undo, in another tab, from the history.
    onNodeOutputsUpdated(outputs) {
        for (const [id, output] of Object.entries(outputs)) {
            const node = output?.text && located(id);
            if (node?.type?.startsWith("CNet")) show(node, output.text);
        }
    },
});
