import { testWalk } from "../../support/walk-checks.ts";

testWalk(1);
