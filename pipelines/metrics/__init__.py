"""How one number is computed: pure functions on arrays, one family per file. Nothing here reads a file or an index.

statistic       what every score is, and the units behind it
    Statistic(value, units, without, share, n_images, class_in_units)      .n_units .n_eff
    image_mean(values, units, labels, n_classes) -> Statistic

classification  labels are codes into the task's vocabulary
    balanced_accuracy(labels, predicted, units, n_classes) -> Statistic
    macro_auroc(labels, probabilities, units) -> Statistic
    log_loss(labels, probabilities, units) -> Statistic                    bits, smaller is better

retrieval       queries and candidates from different units, tie-aware
    has_query(labels, units, folds) -> bool
    retrieve(features, labels, units, n_classes, folds=None) -> Retrieval  .map .normalised (Statistic) .ap .chance .tie_rate
    permutation_null(features, labels, units, n_classes, *, strata, folds, n_permutations, seed) -> PermutationNull
    ranking.expected_ap(n_positive, n_negative) -> float; ranking.tie_aware_ap(similarity, relevant) -> float
    PROTOCOL

pairs           positives and negatives by rules about columns, as copairs states them
    PairRule(pos_sameby, pos_diffby, neg_sameby, neg_diffby)
    pair_scores(features, columns, rule, distance) -> PairScores           .query .ap .chance .normalised .n_positive .tied
    multilabel_scores(features, membership, columns, rule, distance) -> PairScores   .label
    fitting_distance(features) -> "cosine" | "euclidean"

multilabel      several labels for each profile, against permuted profiles; the same with positives in other places
    label_scores(features, membership, names, distance, permutations, seed, places) -> LabelScores   .normalised .value .p_value .p_adjusted
    label_position_control(features, membership, names, places, distance) -> LabelPositionControl   .value .drop .share .dropped .reason

relations       known pairs, and whether replicates show a signal; targets: genes near the compounds that bind them; alignment: by name
    recall(features, names, known, genes, null_scope, thresholds, permutations, seed) -> Recall   .value .permuted .p
    recall_position_control(features, names, known, places, ...) -> RecallPositionControl   .value .drop .share .reason
    consistency(features, names, negatives) -> Signal; magnitude(features, names, controls, negatives) -> Signal   .value .p
    targets.target_scores(profiles, genes, gene_profiles, truth, draws, permutations, seed) -> TargetScores   .ap .auroc .chance .p
    targets.target_position_control(anywhere, profiles, genes, gene_profiles, truth, places, gene_places, ...) -> TargetPositionControl
    alignment.ALIGNMENTS[name](features, controls, batches) -> (n, k) profiles; alignments(epsilon) for another epsilon

groups          queries that belong together: their mean AP, its p under two nulls, adjusted over groups
    group_scores(features, columns, rule, groups, distance, queries, n_permutations, seed) -> GroupScores   .map .normalised .p .p_adjusted
    benjamini_hochberg(p) -> (g,); least_found(n, draws, rate) -> int      how few of n groups can be found at all

canonical       the field's questions about replicates, the control for position, percent replicating
    RULES[question] -> PairRule; reference_index(controls) -> (n,)
    position_control(features, columns, rule) -> PositionControl           .drop .share .reason
    percent_replicating(features, groups, apart) -> Replicating; control_positions(features, columns) -> Replicating   .share .medians .threshold

geometry        is there anything in an embedding
    describe(features) -> Geometry                                         .collapsed .low_rank .participation_ratio

probes          everything fitted sees training images only
    ProbeSettings(max_dim, grid, inner_folds, neighbours)                  .protocol_id("logistic" | "knn")
    projection.fit_projection(features, max_dim) -> Projection             .transform(features)
    folds.inner_folds(labels, groups, n_classes, n_folds) -> InnerFolds
    fit_probe(features, labels, groups, n_classes, settings) -> LogisticProbe   .predict_proba(features) .arrays() .from_arrays(...)
    fit_knn(features, labels, n_classes, settings) -> KnnProbe             .predict_proba(features)
    out_of_fold(features, labels, folds, groups, n_classes, settings, kind="logistic") -> OutOfFold

ridge           the cheapest fitted probe, on projected features
    fit_ridge(z, labels, groups, n_classes, n_folds) -> RidgeProbe         .scores(z) .predict(z) .penalty

code_length     labels in bits, given the vectors, coded unit after unit
    online_code(features, labels, units, n_classes, settings, fractions, seed) -> OnlineCode   .compression (Statistic) .online_bits .uniform_bits

selectivity     the task against control tasks that can only be learned by heart
    selectivity(features, labels, types, folds, groups, n_classes, settings, kind, draws, seed) -> Selectivity   .selectivity .control .recurring
    control_labels(labels, types, n_classes, seed, draw) -> (n,) codes

decoding        plate, batch, row, column, site or centre from an embedding, whole plates or whole wells held out
    decode(features, column, columns, units, settings, kind, labels=None) -> Decoded   .statistic .chance .of_label .note

choice          which representation holds most, by inner folds of the training images
    inner_loss(features, labels, groups, n_classes, settings) -> float; chance_loss(labels, groups, n_classes, settings) -> float
    choose(losses, saw_labels, chance) -> str
    side_by_side(parts, train, max_dim) -> (n, <= max_dim) array

jackknife       delete one unit at a time
    estimate(statistic) -> Estimate                                        .low(alpha) .high(alpha) .p .se
    interval(statistic) -> (low, high) | None; why_not_assessable(statistic) -> str
    difference(subject, control) -> Statistic; mean_of(seeds) -> Statistic

verdicts        one encoder against its controls
    judge(encoder, task, metric, subject, *, twins, controls, aside, positive, unit, alpha, margin, margin_first) -> Verdict
    holm_table(verdicts) -> tuple of Verdict
    findings.find(contrasts, alpha, margin, margin_first) -> Finding       .word .interval: the one that decided
    contrasts.contrast(subject, control_or_seeds, against) -> Contrast
    ceiling.share_of_gap(subject, floor, ceiling, floor_name, ceiling_name) -> ShareOfGap
    shortcut.shortcut_share(encoder, shortcut, chance) -> Shortcut         .value .low .high .note
    sentences.sentence(verdict) -> str; sentences.detail(verdict) -> str; sentences.sensitivity_sentence(main, again, dim) -> str

expression      genes of spots from vectors, under three named protocols
    expression_scores(features, counts, units, folds, protocol="hest_cv", sections=None) -> Expression   .r (Statistic) .per_gene .folds .alphas

ladder          can a metric tell: encoders of known quality, and embeddings that know nothing
    tau_b(first, second) -> float; spearman(first, second) -> float; orientation(metric) -> 1 | -1
    order(values, direction) -> Order                                      .tau .low .high .word
    lead(trained, nothing, direction, *, paired) -> Lead; permuted_labels(codes, blocks, units, folds, seed) -> PermutedLabels
    rise(orders, leads, n_rungs) -> Rise; judge_metric(orders, rises, leads) -> Judged; summary(judged) -> str
    agreement(values) -> Agreement                                         .kendall .spearman

information     what an encoder knows beyond its controls, in bits
    beyond_controls(controls, encoder, twins, labels, folds, units, n_classes, settings) -> Information
    judge_information(encoder, task, information, *, unit, alpha, margin) -> Verdict; sentences.information_sentence(verdict) -> str
    baseline.InformationSettings(...)                                      .protocol_id
"""
